//! What the machine allows, whoever asks: hashes of passwords and verified signatures per second on one core, with nothing around them.
//!
//! Usage: `portcullis-limits argon2id SECONDS MEMORY_KIB PASSES LANES` or `portcullis-limits es256 SECONDS`. Prints `{"per_s", "cpu_us"}`: the second is
//! the processor time of one, which hardly changes on a busy machine.
use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey,
};
use std::error::Error;
use std::time::{Duration, Instant};

type Fault = Box<dyn Error + Send + Sync>;

/// Bytes of an access token that are signed.
const SIGNED: usize = 450;

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (per_s, cpu_us) = match words.as_slice() {
        ["argon2id", seconds, memory_kib, passes, lanes] => {
            let params = Params::new(memory_kib.parse()?, passes.parse()?, lanes.parse()?, Some(32)).map_err(told)?;
            // Kept between hashes, as the server keeps it.
            let mut memory = vec![Block::default(); params.block_count()];
            let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            let mut out = [0; 32];
            rate(seconds, || {
                let password = b"correct horse battery staple of the bench";
                argon.hash_password_into_with_memory(password, &[7; 16], &mut out, &mut memory[..]).map_err(told)
            })?
        }
        ["es256", seconds] => {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)?;
            let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())?;
            let message = [b'x'; SIGNED];
            let signature = key.sign(&random, &message)?;
            let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref())?;
            rate(seconds, || Ok(public.verify_sig(&message, signature.as_ref())?))?
        }
        _ => return Err("usage: portcullis-limits argon2id SECONDS MEMORY_KIB PASSES LANES | es256 SECONDS".into()),
    };
    #[allow(clippy::print_stdout, reason = "the line is the program's result")]
    {
        println!("{}", serde_json::json!({ "per_s": per_s, "cpu_us": cpu_us }));
    }
    Ok(())
}

fn told(error: argon2::Error) -> Fault {
    error.to_string().into()
}

/// One after the other, for so long.
fn rate(seconds: &str, mut act: impl FnMut() -> Result<(), Fault>) -> Result<(f64, f64), Fault> {
    let span = Duration::from_secs_f64(seconds.parse()?);
    act()?; // warms
    let (begun, used) = (now(), used_us());
    let mut done = 0_u32;
    while begun.elapsed() < span {
        act()?;
        done += 1;
    }
    let done = f64::from(done);
    Ok((done / begun.elapsed().as_secs_f64(), (used_us() - used) / done))
}

/// Processor time so far.
fn used_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

#[allow(clippy::disallowed_methods, reason = "a measuring program apart from the product: its clock is the machine's")]
fn now() -> Instant {
    Instant::now()
}
