//! What a stored password hash says: which scheme, which parameters, which salt, which result.
//!
//! New passwords are Argon2id. Accounts that were imported may bring hashes of other schemes, which count until their first
//! sign-in here. A hash is read by this one function when it is imported and when it is checked, and what it asks for is
//! bounded: no row can take all memory, or minutes, and none is so short that a guess may hit it by luck.
//!
//! | text | scheme |
//! |---|---|
//! | `$argon2id$v=19$m=…,t=…,p=…$SALT$HASH`, also `argon2i`, `argon2d` | Argon2 (RFC 9106); without `v=` it is version 16 |
//! | `$2a$COST$…`, `$2b$…`, `$2y$…` | bcrypt |
//! | `$scrypt$ln=…,r=…,p=…$SALT$HASH` | scrypt (RFC 7914) |
//! | `$pbkdf2-sha256$i=…$SALT$HASH`, `$pbkdf2-sha512$…`; passlib's without `i=` | PBKDF2 (RFC 8018) |
//! | `pbkdf2_sha256$…$SALT$HASH`, `pbkdf2_sha512$…` | PBKDF2 as Django writes it |
//! | `$firebase-scrypt$ln=…,r=…$SALT$SIGNER_KEY$HASH` | Firebase's scrypt; see [`firebase`] |
use alloc::{format, string::String, vec::Vec};
use portcullis_wire::{SecretBytes, b64};

/// The longest text.
pub const MAX_TEXT: usize = 512;
/// The most memory that one hash may take, in KiB.
pub const MAX_MEMORY_KIB: u64 = 256 << 10;
/// The most memory that one hash may go over, all passes together, in KiB: some seconds.
pub const MAX_WORK_KIB: u64 = 4 << 20;
/// The highest cost of bcrypt: some seconds.
pub const MAX_BCRYPT_COST: u32 = 15;
/// The most iterations of PBKDF2: some seconds.
pub const MAX_ITERATIONS: u32 = 10_000_000;
/// The shortest and the longest result, in bytes.
pub const HASH_BYTES: core::ops::RangeInclusive<usize> = 16..=64;
/// The longest salt, in bytes. Shorter than 4 is none.
pub const SALT_BYTES: core::ops::RangeInclusive<usize> = 4..=64;

/// A stored hash, taken apart.
#[derive(Debug)]
pub struct Stored {
    /// The scheme, with its parameters.
    pub scheme: Scheme,
    /// The salt.
    pub salt: Vec<u8>,
    /// The result for the right password.
    pub hash: SecretBytes,
}

/// A scheme with its parameters.
#[derive(Debug)]
pub enum Scheme {
    /// Argon2.
    Argon2 {
        /// The variant.
        variant: Argon2,
        /// Whether it is version 19 (the current one), or 16.
        current: bool,
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// bcrypt; the salt has 16 bytes, the hash 23.
    Bcrypt {
        /// Its cost.
        cost: u32,
    },
    /// scrypt.
    Scrypt {
        /// Logarithm of N.
        log_n: u8,
        /// Block size.
        r: u32,
        /// Parallelism.
        p: u32,
    },
    /// PBKDF2 with HMAC.
    Pbkdf2 {
        /// The hash function.
        function: Function,
        /// Iterations.
        iterations: u32,
    },
    /// Firebase's scrypt: scrypt makes a key, and what is compared is the project's signer key encrypted under it.
    Firebase {
        /// Logarithm of N ("mem cost").
        log_n: u8,
        /// Block size ("rounds").
        r: u32,
        /// The project's signer key.
        signer_key: SecretBytes,
    },
}

/// A variant of Argon2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argon2 {
    /// Data-dependent.
    D,
    /// Data-independent.
    I,
    /// Both in turn: what new passwords get.
    Id,
}

/// A hash function under HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// What is wrong with a text, in words that hold nothing of it.
pub type Wrong = String;

/// Takes a text apart.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn parse(text: &str) -> Result<Stored, Wrong> {
    if text.len() > MAX_TEXT {
        return Err(format!("a password hash has at most {MAX_TEXT} characters"));
    }
    if let Some(django) = text.strip_prefix("pbkdf2_") {
        return pbkdf2_django(django);
    }
    let mut parts = text.strip_prefix('$').unwrap_or_default().split('$');
    let (name, rest) = (parts.next().unwrap_or_default(), parts.collect::<Vec<_>>());
    let stored = match (name, rest.as_slice()) {
        ("argon2id", rest) => argon2(Argon2::Id, rest)?,
        ("argon2i", rest) => argon2(Argon2::I, rest)?,
        ("argon2d", rest) => argon2(Argon2::D, rest)?,
        ("2a" | "2b" | "2y", [cost, rest]) => bcrypt(cost, rest)?,
        ("scrypt", [params, salt, hash]) => {
            let [log_n, r, p] = numbers(params, ["ln", "r", "p"])?;
            scrypt(log_n, r, p, base64(salt, "salt")?, base64(hash, "hash")?)?
        }
        ("pbkdf2-sha256", [params, salt, hash]) => pbkdf2_phc(Function::Sha256, params, salt, hash)?,
        ("pbkdf2-sha512", [params, salt, hash]) => pbkdf2_phc(Function::Sha512, params, salt, hash)?,
        ("firebase-scrypt", [params, salt, signer_key, hash]) => {
            let [log_n, r] = numbers(params, ["ln", "r"])?;
            let (salt, hash) = (base64(salt, "salt")?, base64(hash, "hash")?);
            from_firebase(log_n, r, salt, base64(signer_key, "signer key")?, hash)?
        }
        _ => {
            return Err(
                "this scheme is not known here, or its parts are not complete; known are $2a$ $2b$ $2y$ (bcrypt), \
                 $scrypt$, $pbkdf2-sha256$, $pbkdf2-sha512$, pbkdf2_sha256$ and pbkdf2_sha512$ (Django), $argon2id$, \
                 $argon2i$, $argon2d$, and Firebase's as an object"
                    .into(),
            );
        }
    };
    bounded(stored)
}

/// The text under which Firebase's scrypt is kept, from what the project's page and its export say: base64 of signer key, salt
/// separator, salt and hash; `rounds`, `mem_cost`.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn firebase(
    hash: &str,
    salt: &str,
    signer_key: &str,
    salt_separator: &str,
    rounds: u32,
    mem_cost: u32,
) -> Result<String, Wrong> {
    let mut whole = base64(salt, "salt")?;
    whole.extend_from_slice(&base64(salt_separator, "salt separator")?);
    let (signer_key, hash) = (base64(signer_key, "signer key")?, base64(hash, "hash")?);
    let text = format!(
        "$firebase-scrypt$ln={mem_cost},r={rounds}${}${}${}",
        standard(&whole),
        standard(&signer_key),
        standard(&hash)
    );
    parse(&text).map(|_| text)
}

fn argon2(variant: Argon2, parts: &[&str]) -> Result<Stored, Wrong> {
    let (version, parts) = match parts {
        [version, rest @ ..] if version.starts_with("v=") => (*version, rest),
        rest => ("v=16", rest),
    };
    let current = match version {
        "v=19" => true,
        "v=16" => false,
        _ => return Err("Argon2 has the versions 16 and 19".into()),
    };
    let [params, salt, hash] = parts else {
        return Err("an Argon2 hash looks like $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH".into());
    };
    let [memory_kib, passes, lanes] = numbers(params, ["m", "t", "p"])?;
    if lanes == 0 || lanes > 16 || passes == 0 || memory_kib < 8 * lanes {
        return Err("Argon2 takes 1 to 16 lanes (p), a pass (t) or more, and 8 KiB (m) or more for each lane".into());
    }
    memory(u64::from(memory_kib), u64::from(passes))?;
    let scheme = Scheme::Argon2 { variant, current, memory_kib, passes, lanes };
    let (salt, hash) = (base64(salt, "salt")?, SecretBytes::new(base64(hash, "hash")?));
    if salt.len() < 8 {
        return Err("Argon2 takes a salt of 8 bytes or more".into());
    }
    Ok(Stored { scheme, salt, hash })
}

fn bcrypt(cost: &str, rest: &str) -> Result<Stored, Wrong> {
    let wrong = || Wrong::from("a bcrypt hash looks like $2b$12$ and 53 characters of ./A-Za-z0-9");
    let cost = number(cost).ok().filter(|n| cost.len() == 2 && *n >= 4).ok_or_else(wrong)?;
    if cost > MAX_BCRYPT_COST {
        return Err(format!("the cost of bcrypt may be at most {MAX_BCRYPT_COST} here; a higher one takes too long"));
    }
    if rest.len() != 53 || !rest.is_ascii() {
        return Err(wrong());
    }
    let (salt, hash) = rest.split_at(22);
    let salt = bcrypt_base64(salt, 16).ok_or_else(wrong)?;
    let hash = bcrypt_base64(hash, 23).ok_or_else(wrong)?;
    Ok(Stored { scheme: Scheme::Bcrypt { cost }, salt, hash: SecretBytes::new(hash) })
}

/// bcrypt's own base64, of which the spare bits at the end say nothing.
fn bcrypt_base64(text: &str, bytes: usize) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let (mut out, mut bits, mut held) = (Vec::with_capacity(bytes), 0u32, 0);
    for byte in text.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == byte)?;
        bits = (bits << 6) | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (out.len() == bytes).then_some(out)
}

fn scrypt(log_n: u32, r: u32, p: u32, salt: Vec<u8>, hash: Vec<u8>) -> Result<Stored, Wrong> {
    let log_n = scrypt_cost(log_n, r, p)?;
    Ok(Stored { scheme: Scheme::Scrypt { log_n, r, p }, salt, hash: SecretBytes::new(hash) })
}

fn scrypt_cost(log_n: u32, r: u32, p: u32) -> Result<u8, Wrong> {
    let log_n = u8::try_from(log_n).ok().filter(|n| (1..=30).contains(n));
    let (Some(log_n), 1..=64, 1..=64) = (log_n, r, p) else {
        return Err("scrypt takes ln from 1 to 30, r and p from 1 to 64".into());
    };
    // 128 · N · r bytes (RFC 7914 §2).
    memory(((u64::from(r) << log_n) * 128).div_ceil(1024), u64::from(p))?;
    Ok(log_n)
}

fn from_firebase(log_n: u32, r: u32, salt: Vec<u8>, signer_key: Vec<u8>, hash: Vec<u8>) -> Result<Stored, Wrong> {
    let log_n = scrypt_cost(log_n, r, 1)?;
    if signer_key.len() != hash.len() {
        return Err("Firebase's hash is as long as the signer key; is it this project's?".into());
    }
    let scheme = Scheme::Firebase { log_n, r, signer_key: SecretBytes::new(signer_key) };
    Ok(Stored { scheme, salt, hash: SecretBytes::new(hash) })
}

fn pbkdf2_phc(function: Function, params: &str, salt: &str, hash: &str) -> Result<Stored, Wrong> {
    // passlib writes the number alone, and `.` for `+`.
    if params.bytes().all(|b| b.is_ascii_digit()) {
        let [salt, hash] = [salt, hash].map(|text| text.replace('.', "+"));
        return pbkdf2(function, number(params)?, base64(&salt, "salt")?, base64(&hash, "hash")?);
    }
    let (first, length) = params.split_once(',').map_or((params, None), |(a, b)| (a, Some(b)));
    let ([iterations], hash) = (numbers(first, ["i"])?, base64(hash, "hash")?);
    if let Some(length) = length {
        let [length] = numbers(length, ["l"])?;
        if hash.len() as u64 != u64::from(length) {
            return Err("the hash is not as long as `l` says".into());
        }
    }
    pbkdf2(function, iterations, base64(salt, "salt")?, hash)
}

fn pbkdf2_django(text: &str) -> Result<Stored, Wrong> {
    let parts: Vec<&str> = text.split('$').collect();
    let (function, iterations, salt, hash) = match parts.as_slice() {
        ["sha256", iterations, salt, hash] => (Function::Sha256, iterations, salt, hash),
        ["sha512", iterations, salt, hash] => (Function::Sha512, iterations, salt, hash),
        _ => return Err("Django's PBKDF2 looks like pbkdf2_sha256$600000$SALT$HASH".into()),
    };
    // The salt is the text itself.
    bounded(pbkdf2(function, number(iterations)?, salt.as_bytes().to_vec(), base64(hash, "hash")?)?)
}

fn pbkdf2(function: Function, iterations: u32, salt: Vec<u8>, hash: Vec<u8>) -> Result<Stored, Wrong> {
    if !(1..=MAX_ITERATIONS).contains(&iterations) {
        return Err(format!("PBKDF2 may have 1 to {MAX_ITERATIONS} iterations here; more take too long"));
    }
    Ok(Stored { scheme: Scheme::Pbkdf2 { function, iterations }, salt, hash: SecretBytes::new(hash) })
}

fn memory(kib: u64, passes: u64) -> Result<(), Wrong> {
    if kib > MAX_MEMORY_KIB {
        return Err(format!("this hash takes {kib} KiB of memory; at most {MAX_MEMORY_KIB} are allowed here"));
    }
    if kib * passes > MAX_WORK_KIB {
        return Err("this hash takes too long here: too many passes over too much memory".into());
    }
    Ok(())
}

fn bounded(stored: Stored) -> Result<Stored, Wrong> {
    if !SALT_BYTES.contains(&stored.salt.len()) {
        return Err(format!("the salt must have {} to {} bytes", SALT_BYTES.start(), SALT_BYTES.end()));
    }
    if !HASH_BYTES.contains(&stored.hash.expose().len()) {
        return Err(format!("the hash must have {} to {} bytes", HASH_BYTES.start(), HASH_BYTES.end()));
    }
    Ok(stored)
}

/// `a=1,b=2` in this order, nothing else.
fn numbers<const N: usize>(text: &str, names: [&str; N]) -> Result<[u32; N], Wrong> {
    let mut out = [0; N];
    let mut pairs = text.split(',');
    for (value, name) in out.iter_mut().zip(names) {
        let pair = pairs.next().and_then(|pair| pair.split_once('=')).filter(|(known, _)| *known == name);
        let (_, text) = pair.ok_or_else(|| format!("the parameters are {}, in this order", names.join(", ")))?;
        *value = number(text)?;
    }
    match pairs.next() {
        None => Ok(out),
        Some(_) => Err(format!("the parameters are {}, and no others", names.join(", "))),
    }
}

fn number(text: &str) -> Result<u32, Wrong> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or_else(|| "a parameter is no whole number, or too large a one".into())
}

/// Base64 in either alphabet, padded or not.
fn base64(text: &str, what: &str) -> Result<Vec<u8>, Wrong> {
    let plain = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    b64::decode(&plain).ok_or_else(|| format!("the {what} is no base64"))
}

/// Base64 as PHC strings have it: the standard alphabet, no padding.
fn standard(bytes: &[u8]) -> String {
    b64::encode(bytes).replace('-', "+").replace('_', "/")
}

impl Stored {
    /// Whether it should be replaced, once the password is known, by what new passwords get: another scheme, or Argon2id with
    /// less of anything.
    pub fn is_worse_than(&self, memory_kib: u32, passes: u32) -> bool {
        match &self.scheme {
            Scheme::Argon2 { variant: Argon2::Id, current: true, memory_kib: m, passes: t, .. } => {
                *m < memory_kib || *t < passes || self.hash.expose().len() < 32 || self.salt.len() < 16
            }
            _ => true,
        }
    }
}
