//! Introspection, by the database: of tokens that were asked about before, beside a provider that keeps everything in memory; of new
//! ones, beside the signatures that one core verifies. And what everybody fetches: keys and metadata.
use super::asked::{Ours, Rounds, basic, form, refreshes};
use super::mass::{admin, call};
use super::peers::{Provider, TOKENS};
use super::table::{Aim, Ask, Row, Unit};
use super::{Bench, CALLERS};
use crate::Failure;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const LIVES: &str = r#""active":true"#;

pub fn section(ask: &Ask) -> Result<Vec<Row>, Failure> {
    let bench = Bench::built(&ask.workspace)?;
    let ours = Ours::start(&bench)?;
    let provider = Provider::start(&bench, &ask.workspace)?;
    let proof = client(&ours)?;

    let seconds = if ask.quick { 0.5 } else { 2.0 };
    let known = minted(&bench, &ours, "known", TOKENS, seconds)?;
    let asked = |values: &Path| asked(&proof, values);
    let mut theirs = form("/token/introspection", &provider.basic, "token", &provider.opaque);
    theirs["holds"] = LIVES.into();
    let mut rounds = [const { Rounds::new() }; 3];
    let (mut signatures, mut signature_us) = (Vec::new(), Vec::new());
    // The first round of each warms and is not counted; before it nothing was seen.
    for round in 0..=ask.rounds(7) {
        let before = bench.ask(&ours.running, &asked(&known), seconds)?;
        let provider = bench.ask(&provider.running, &theirs, seconds)?;
        let fresh = minted(&bench, &ours, "fresh", usize::MAX, seconds)?;
        let mut once = asked(&fresh);
        once["once"] = true.into();
        let new = bench.ask(&ours.running, &once, seconds)?;
        let limit = bench.limit(&["es256", &seconds.to_string()])?;
        if round > 0 {
            rounds.iter_mut().zip([before, new, provider]).for_each(|(rounds, one)| rounds.push(one));
            signatures.push(limit.0);
            signature_us.push(limit.1);
        }
    }
    let [seen, new, them] = rounds;
    let name = format!("{}, opaque tokens in memory", provider.name);
    let limit = "ES256 verifications alone on that core";
    let mut rows = vec![
        Row::paired(
            &format!("introspection of {TOKENS} tokens seen before, {CALLERS} at once"),
            Unit::PerSecond,
            &seen.per_s(),
            &name,
            &them.per_s(),
            Aim::RatioAtLeast(10.0),
        ),
        Row::paired("processor time of such a one", Unit::Us, &seen.cpu_us(), &name, &them.cpu_us(), Aim::None),
        Row::paired(
            &format!("introspection of new tokens, {CALLERS} at once"),
            Unit::PerSecond,
            &new.per_s(),
            limit,
            &signatures,
            Aim::RatioAtLeast(0.8),
        ),
        Row::paired("processor time of a new one", Unit::Us, &new.cpu_us(), limit, &signature_us, Aim::None),
    ];
    for (what, our, their) in [
        ("JWKS", "/.well-known/jwks.json", "/jwks"),
        ("discovery", "/.well-known/openid-configuration", "/.well-known/openid-configuration"),
    ] {
        let get = |path: &str| json!({ "method": "GET", "path": path, "callers": CALLERS });
        let (mut us, mut them) = (Rounds::default(), Rounds::default());
        for _ in 0..ask.rounds(3) {
            us.push(bench.ask(&ours.running, &get(our), seconds)?);
            them.push(bench.ask(&provider.running, &get(their), seconds)?);
        }
        rows.push(Row::paired(what, Unit::PerSecond, &us.per_s(), &provider.name, &them.per_s(), Aim::None));
    }
    Ok(rows)
}

/// A service that may ask: its proof.
pub fn client(ours: &Ours) -> Result<String, Failure> {
    let address = ours.running.address;
    let body = json!({ "name": "bench", "kind": "verifier" });
    let client = call(address, "POST", "/v1/admin/clients", &admin(address)?, Some(&body))?;
    let text = |member: &str| client[member].as_str().unwrap_or_default();
    Ok(basic(text("client_id"), text("client_secret")))
}

/// What it asks about these tokens, all of which live.
pub fn asked(proof: &str, tokens: &Path) -> Value {
    let mut asked = form("/oauth2/introspect", proof, "token", tokens);
    asked["holds"] = LIVES.into();
    asked
}

/// So many access tokens at most, from refreshes.
pub fn minted(bench: &Bench, ours: &Ours, name: &str, most: usize, seconds: f64) -> Result<PathBuf, Failure> {
    let file = bench.folder.join(format!("{name}.tokens"));
    let mut minting = refreshes(&ours.tokens);
    minting["keep"] = json!(["access_token", &file]);
    bench.ask(&ours.running, &minting, seconds)?;
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.lines().take(most).map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(file)
}
