//! What the sections share: the server with people signed in, requests that a description says, and what a core allows.
use super::{Bench, CALLERS, REFRESH, Running, path, pinned, sign_in_all};
use crate::ports::lasting_address;
use crate::{Failure, process};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// A round ends earlier after as many requests.
const MOST: u64 = 500_000;

/// A round of requests.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub per_s: f64,
    pub p99_ms: f64,
    /// Processor time of whoever was asked, for each.
    pub cpu_us: f64,
}

/// Rounds of it.
#[derive(Debug, Default)]
pub struct Rounds(Vec<Asked>);

impl Rounds {
    pub const fn new() -> Self {
        Self(Vec::new())
    }
    pub fn push(&mut self, asked: Asked) {
        self.0.push(asked);
    }
    pub fn per_s(&self) -> Vec<f64> {
        self.0.iter().map(|one| one.per_s).collect()
    }
    pub fn p99_ms(&self) -> Vec<f64> {
        self.0.iter().map(|one| one.p99_ms).collect()
    }
    pub fn cpu_us(&self) -> Vec<f64> {
        self.0.iter().map(|one| one.cpu_us).collect()
    }
}

/// Our server on the first half of the cores, by its defaults, on SQLite; one person for each caller is signed in.
pub struct Ours {
    pub running: Running,
    /// A refresh token for each caller.
    pub tokens: PathBuf,
}

impl Ours {
    pub fn start(bench: &Bench) -> Result<Self, Failure> {
        let address = lasting_address();
        let (running, _) = bench.start_server(address)?;
        let tokens = bench.folder.join("server.tokens");
        std::fs::write(&tokens, sign_in_all(address)?)?;
        Ok(Self { running, tokens })
    }
}

impl Bench {
    /// Asks as `description` says (`bench/load/src/asks.rs`), from the second half of the cores.
    pub fn ask(&self, of: &Running, description: &Value, seconds: f64) -> Result<Asked, Failure> {
        let before = of.cpu_ms()?;
        let said = said(&process::output(&mut self.asking(of, description, seconds)?)?)?;
        let cpu_us = (of.cpu_ms()? - before) * 1000.0;
        let number = |name: &str| said[name].as_f64().unwrap_or(0.0);
        Ok(Asked {
            per_s: number("per_s"),
            p99_ms: number("p99_us") / 1000.0,
            cpu_us: cpu_us / number("requests").max(1.0),
        })
    }

    /// The program that does so.
    pub fn asking(&self, of: &Running, description: &Value, seconds: f64) -> Result<Command, Failure> {
        // By what is asked: two may run at once.
        let name: String = description["path"].as_str().unwrap_or_default().replace('/', "-");
        let file = self.folder.join(format!("ask{name}.json"));
        std::fs::write(&file, description.to_string())?;
        let mut command =
            pinned(self.cores.as_ref().map(|(_, second)| second.as_str()), &self.programs.join("portcullis-asks"));
        command.args([path(&file), of.address.to_string(), seconds.to_string(), MOST.to_string()]);
        Ok(command)
    }

    /// What one core allows, per second, and its processor time for each in microseconds.
    pub fn limit(&self, words: &[&str]) -> Result<(f64, f64), Failure> {
        let said = said(&process::output(self.on_first(&self.programs.join("portcullis-limits")).args(words))?)?;
        Ok((said["per_s"].as_f64().unwrap_or(0.0), said["cpu_us"].as_f64().unwrap_or(0.0)))
    }
}

/// What one of the measuring programs said.
pub fn said(text: &str) -> Result<Value, Failure> {
    let said: Value = serde_json::from_str(text).map_err(|error| Failure::Missing(format!("{text}: {error}")))?;
    if said["errors"].as_u64().is_some_and(|errors| errors > 0) {
        return Err(Failure::Missing(format!(
            "{} callers met an error, first: {}",
            said["errors"], said["first_error"]
        )));
    }
    Ok(said)
}

/// Refreshes as ours and the floor take them.
pub fn refreshes(tokens: &std::path::Path) -> Value {
    json!({
        "method": "POST", "path": REFRESH, "body": r#"{"refresh_token":"{value}"}"#, "callers": CALLERS,
        "values": tokens, "next": "refresh_token",
    })
}

/// A form that a client sends, with the value as its last parameter.
pub fn form(path: &str, basic: &str, parameters: &str, values: &std::path::Path) -> Value {
    json!({
        "method": "POST", "path": path, "body": format!("{parameters}={{value}}"), "callers": CALLERS, "values": values,
        "headers": { "content-type": "application/x-www-form-urlencoded", "authorization": format!("Basic {basic}") },
    })
}

/// `id:secret` in base64.
pub fn basic(id: &str, secret: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = format!("{id}:{secret}");
    let groups = text.as_bytes().chunks(3).map(|group| {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digit = |place: usize| {
            if place > group.len() { '=' } else { char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]) }
        };
        (0..4).map(digit).collect::<String>()
    });
    groups.collect()
}

/// Whoever signs in.
pub fn sign_ins(path: &str, member: &str, callers: usize, emails: &std::path::Path) -> Value {
    let password = super::PASSWORD;
    json!({
        "method": "POST", "path": path, "callers": callers, "values": emails,
        "body": json!({ member: "{value}", "password": password }).to_string(),
    })
}

/// The addresses that [`sign_in_all`] makes, a line each.
pub fn emails(bench: &Bench, count: usize) -> Result<PathBuf, Failure> {
    let file = bench.folder.join("emails");
    std::fs::write(&file, (0..count).map(|n| format!("caller-{n}@example.org\n")).collect::<String>())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #[test]
    fn basic_is_base64() {
        for (id, secret, text) in
            [("a", "", "YTo="), ("ab", "", "YWI6"), ("ab", "c", "YWI6Yw=="), ("fo", "obar", "Zm86b2Jhcg==")]
        {
            assert_eq!(super::basic(id, secret), text);
        }
    }

    #[test]
    fn an_error_of_a_caller_is_one_of_the_bench() {
        assert!(super::said(r#"{"errors":1,"first_error":"x"}"#).is_err());
        assert!(super::said(r#"{"errors":0,"per_s":1.0}"#).is_ok());
        assert!(super::said("x").is_err());
    }
}
