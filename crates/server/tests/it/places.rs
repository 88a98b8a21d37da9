//! `geo_file` and `risk_rules` while the server runs: missing, there, cut off, no such format, swapped, gone; and told by SIGHUP.
use crate::kept::serve;
use crate::support::{ADMIN, Dir, PATIENCE, Server};
use portcullis_testkit::lasting_address;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// A database of places in MaxMind's format (2.0), written here: all of 127.0.0.0/8 is in this country, and nothing else anywhere.
fn database(country: &str) -> Vec<u8> {
    const NODES: u32 = 8;
    let mut file = Vec::new();
    let nothing = NODES;
    for node in 0..NODES {
        // The bits of 127: a zero, then ones. The last one leads to what is at the beginning of the data.
        let inside = if node + 1 < NODES { node + 1 } else { NODES + 16 };
        let records = if node == 0 { [inside, nothing] } else { [nothing, inside] };
        records.iter().for_each(|record| file.extend_from_slice(&record.to_be_bytes()[1..]));
    }
    file.extend([0; 16]);
    map(&mut file, 3);
    text(&mut file, "country");
    map(&mut file, 1);
    text(&mut file, "iso_code");
    text(&mut file, country);
    text(&mut file, "location");
    map(&mut file, 3);
    for (name, degrees) in [("latitude", 48.2f64), ("longitude", 16.4)] {
        text(&mut file, name);
        file.push(3 << 5 | 8);
        file.extend(degrees.to_be_bytes());
    }
    text(&mut file, "accuracy_radius");
    number(&mut file, 5, &50u16.to_be_bytes());
    text(&mut file, "autonomous_system_number");
    number(&mut file, 6, &64_500u32.to_be_bytes());
    file.extend(b"\xab\xcd\xefMaxMind.com");
    map(&mut file, 9);
    text(&mut file, "node_count");
    number(&mut file, 6, &NODES.to_be_bytes());
    for (name, value) in [
        ("record_size", 24u16),
        ("ip_version", 4),
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
    ] {
        text(&mut file, name);
        number(&mut file, 5, &value.to_be_bytes());
    }
    text(&mut file, "build_epoch");
    // Of the types that did not fit into three bits: 7 and this is 9, a number of 64 bits.
    file.extend([8, 2]);
    file.extend(1_760_000_000u64.to_be_bytes());
    text(&mut file, "database_type");
    text(&mut file, &format!("Test-{country}"));
    text(&mut file, "languages");
    file.extend([0, 4]);
    text(&mut file, "description");
    map(&mut file, 0);
    file
}

fn map(file: &mut Vec<u8>, members: u8) {
    file.push(7 << 5 | members);
}

fn text(file: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 29, "{text}");
    file.push(2 << 5 | length);
    file.extend(text.as_bytes());
}

fn number(file: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    file.push(kind << 5 | u8::try_from(bytes.len()).unwrap());
    file.extend(bytes);
}

fn policy(version: &str) -> String {
    let rule = |country: &str| {
        format!(
            "[[rule]]\nname = \"from-{}\"\nacts = [\"sign_in\"]\nwhen = 'from.country == \"{country}\"'\nthen = [\"notify\"]\n\
             reason = \"A sign-in from {country}.\"\n",
            country.to_lowercase()
        )
    };
    format!("version = \"{version}\"\n{}{}", rule("AT"), rule("CH"))
}

struct World {
    server: Server,
    told: usize,
}

impl World {
    /// How often each rule has said something, after one more sign-in; and the policy's version.
    async fn after_a_sign_in(&self) -> (u64, u64, String) {
        let token = self.server.access_token(ADMIN).await;
        let (status, state) = self.server.call("GET", "/v1/admin/rules", Some(&token), None).await;
        assert_eq!(status, 200, "{state}");
        let hits = |name: &str| {
            let rule = state["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == name);
            rule.map_or(0, |rule| rule["hits"].as_u64().unwrap())
        };
        (hits("from-at"), hits("from-ch"), state["version"].as_str().unwrap().to_owned())
    }

    /// Says that files have changed, and waits until the log says this of them once more.
    async fn told(&mut self, words: &str) {
        let lines = |log: &str| log.lines().filter(|line| line.contains(words)).count();
        let before = lines(&self.server.process.log());
        self.server.process.signal(Signal::HUP);
        self.told += 1;
        let until = tokio::time::Instant::now() + PATIENCE;
        while lines(&self.server.process.log()) == before {
            assert!(tokio::time::Instant::now() < until, "never said {words:?}: {}", self.server.process.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn files_come_go_break_and_are_swapped_while_it_runs() {
    let dir = Dir::new();
    dir.write("rules.toml", &policy("one"));
    let args = ["--risk-rules", "rules.toml", "--geo-file", "places.mmdb"];
    let server = serve(&dir, lasting_address(), &args).await;
    let mut world = World { server, told: 0 };
    let put = |bytes: &[u8]| std::fs::write(dir.path("places.mmdb"), bytes).unwrap();
    // Missing: places are not known, and everything works.
    assert_eq!(world.after_a_sign_in().await, (0, 0, "one".into()));
    world.told("geo_file cannot be read: places are not known").await;
    // Broken from the beginning.
    put(b"no such format");
    world.told("geo_file cannot be used: places are not known").await;
    assert_eq!(world.after_a_sign_in().await, (0, 0, "one".into()));
    put(&database("AT"));
    world.told("Test-AT").await;
    assert_eq!(world.after_a_sign_in().await, (1, 0, "one".into()));
    world.told("geo_file is as it was").await;
    // Whatever becomes of the file then, the one that was good stays in force.
    let whole = database("CH");
    for cut in [0, 10, whole.len() / 2, whole.len() - 3] {
        put(&whole[..cut]);
        world.told("geo_file cannot be used; the old one stays in force").await;
    }
    assert_eq!(world.after_a_sign_in().await, (2, 0, "one".into()));
    std::fs::remove_file(dir.path("places.mmdb")).unwrap();
    world.told("geo_file cannot be read; the old one stays in force").await;
    assert_eq!(world.after_a_sign_in().await, (3, 0, "one".into()));
    put(&whole);
    world.told("Test-CH").await;
    assert_eq!(world.after_a_sign_in().await, (3, 1, "one".into()));
    // The policy, too.
    dir.write("rules.toml", &policy("two").replace("from.country", "from.contry"));
    world.told("the rules of risk cannot be used; the old ones stay in force").await;
    assert!(world.server.process.log().contains("did you mean `from.country`?"));
    assert_eq!(world.after_a_sign_in().await, (3, 2, "one".into()));
    std::fs::remove_file(dir.path("rules.toml")).unwrap();
    world.told("the rules of risk cannot be used; the old ones stay in force").await;
    dir.write("rules.toml", &policy("two"));
    world.told("new rules of risk are in force").await;
    assert_eq!(world.after_a_sign_in().await, (3, 3, "two".into()));
    assert!(world.told > 10);
}

#[tokio::test]
async fn a_policy_that_is_wrong_keeps_it_from_starting_and_a_database_of_places_does_not() {
    let dir = Dir::new();
    dir.write("rules.toml", &policy("one").replace("notify", "notfy"));
    let mut command = Server::command(&dir, &["--risk-rules", "rules.toml"]);
    let ran: crate::support::Ran = command.output().unwrap().into();
    assert!(ran.code != 0 && ran.err.contains("`notfy` is no outcome"), "{ran:?}");
    dir.write("rules.toml", &policy("one"));
    dir.write("places.mmdb", "\u{fffd} no such format");
    let server = serve(&dir, lasting_address(), &["--risk-rules", "rules.toml", "--geo-file", "places.mmdb"]).await;
    let token = server.access_token(ADMIN).await;
    let (_, state): (_, Value) = server.call("GET", "/v1/admin/rules", Some(&token), None).await;
    assert_eq!((&state["version"], &state["rules"]), (&json!("one"), &json!([])));
}
