//! Verifications per second of processor time by the crate `jsonwebtoken`, on one core: signature, `exp`, `iss`, `aud`, with the key parsed once and the same
//! cryptographic library as ours. Usage: `portcullis-peer-jsonwebtoken TOKEN_FILE SECONDS`.
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::{Deserialize, Serialize};
use std::hint::black_box;

#[derive(Deserialize)]
struct Told {
    token: String,
    jwk: Jwk,
    issuer: String,
    audience: String,
}

/// What a service reads of a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: u64,
    iat: u64,
    jti: String,
    client_id: String,
    scope: String,
    sid: String,
}

/// The processor time of this thread so far, in seconds, as the kernel counts it: its only one.
fn cpu_s() -> Result<f64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e9)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, seconds] = arguments.as_slice() else { return Err("usage: TOKEN_FILE SECONDS".into()) };
    let told: Told = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let (key, seconds) = (DecodingKey::from_jwk(&told.jwk)?, seconds.parse::<f64>()?);
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[&told.issuer]);
    validation.set_audience(&[&told.audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    let (begun, mut count) = (cpu_s()?, 0_u64);
    while cpu_s()? - begun < seconds {
        for _ in 0..100 {
            black_box(decode::<Claims>(black_box(told.token.as_str()), &key, &validation)?);
        }
        count += 100;
    }
    println!("{}", serde_json::json!({ "per_s": count as f64 / (cpu_s()? - begun) }));
    Ok(())
}
