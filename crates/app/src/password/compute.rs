//! Computing hashes: one for a new password, and one to compare with a stored one, of whatever scheme it is.
use crate::real;
use allocator_api2::vec::Vec as VecIn;
use argon2::password_hash::{Output, ParamsString, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::iv::FixedLength;
use portcullis_domain::stored_hash::{self, Function, Scheme, Stored};
use portcullis_wire::SecretString;
use std::alloc::System;
use zeroize::Zeroizing;

/// What Argon2 works in, 19 MiB as a rule. It comes from the C library's allocator, whatever the program's is: that gives it back
/// to the system when it is dropped, and large pages while it is there, if it is told to (`glibc.malloc.hugetlb`).
pub(super) type Memory = VecIn<Block, System>;

/// Room for 33 MiB, of which no more is used than is touched. What the GNU C library maps for itself, it gives back, and it gives it
/// large pages; but once that many bytes were given back it keeps as many for the next who asks, in small pages, for up to 32 MiB
/// (`mallopt`(3), `M_MMAP_THRESHOLD`).
const ROOM: usize = 33 * 1024 * 1024 / Block::SIZE;

/// Before the first hash.
pub(super) fn no_memory() -> Memory {
    Memory::new_in(System)
}

fn make_room(memory: &mut Memory, blocks: usize) {
    memory.reserve_exact(ROOM.saturating_sub(memory.len()));
    memory.resize(blocks, Block::default());
}

/// The PHC string of a new password. `memory` is the thread's: what is allocated anew for each would stay with the allocator.
pub(super) fn hash(password: &SecretString, params: &Params, memory: &mut Memory) -> Option<String> {
    let mut salt = [0; 16];
    real::fill(&mut salt);
    let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
    let mut out = Zeroizing::new(vec![0; params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN)]);
    if !argon2(password, &salt, &mut out, (algorithm, version, params.clone()), memory) {
        return None;
    }
    let salt = SaltString::encode_b64(&salt).ok()?;
    let hash = PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(params).ok()?,
        salt: Some(salt.as_salt()),
        hash: Some(Output::new(&out).ok()?),
    };
    Some(hash.to_string())
}

/// Computes exactly one hash, by the scheme of `stored` (by `params` when there is none that can be read), and compares in
/// constant time, if at all.
pub(super) fn check(
    password: &SecretString,
    stored: Option<&str>,
    compare: bool,
    params: &Params,
    memory: &mut Memory,
) -> bool {
    let Some(stored) = stored.and_then(|text| stored_hash::parse(text).ok()) else {
        argon2(password, &[0; 16], &mut [0; 32], (Algorithm::Argon2id, Version::V0x13, params.clone()), memory);
        return false;
    };
    let expected = stored.hash.expose();
    let mut out = Zeroizing::new(vec![0; expected.len()]);
    let computed = compute(password, &stored, &mut out, memory);
    compare && computed && verify_slices_are_equal(&out, expected).is_ok()
}

fn compute(password: &SecretString, stored: &Stored, out: &mut [u8], memory: &mut Memory) -> bool {
    let (bytes, salt) = (password.expose().as_bytes(), &stored.salt[..]);
    match &stored.scheme {
        Scheme::Argon2 { variant, current, memory_kib, passes, lanes } => {
            let algorithm = match variant {
                stored_hash::Argon2::D => Algorithm::Argon2d,
                stored_hash::Argon2::I => Algorithm::Argon2i,
                stored_hash::Argon2::Id => Algorithm::Argon2id,
            };
            let version = if *current { Version::V0x13 } else { Version::V0x10 };
            let Ok(params) = Params::new(*memory_kib, *passes, *lanes, Some(out.len())) else { return false };
            argon2(password, salt, out, (algorithm, version, params), memory)
        }
        Scheme::Bcrypt { cost } => bcrypt(*cost, salt, bytes, out),
        Scheme::Scrypt { log_n, r, p } => scrypt((*log_n, *r, *p), salt, bytes, out),
        Scheme::Pbkdf2 { function, iterations } => {
            match function {
                Function::Sha256 => pbkdf2::pbkdf2_hmac::<sha2::Sha256>(bytes, salt, *iterations, out),
                Function::Sha512 => pbkdf2::pbkdf2_hmac::<sha2::Sha512>(bytes, salt, *iterations, out),
            }
            true
        }
        Scheme::Firebase { log_n, r, signer_key } => {
            let mut key = Zeroizing::new([0; 32]);
            if !scrypt((*log_n, *r, 1), salt, bytes, &mut *key) {
                return false;
            }
            out.copy_from_slice(signer_key.expose());
            aes_256_ctr(&key, out)
        }
    }
}

fn argon2(
    password: &SecretString,
    salt: &[u8],
    out: &mut [u8],
    (algorithm, version, params): (Algorithm, Version, Params),
    memory: &mut Memory,
) -> bool {
    make_room(memory, params.block_count());
    let argon = Argon2::new(algorithm, version, params);
    argon.hash_password_into_with_memory(password.expose().as_bytes(), salt, out, &mut memory[..]).is_ok()
}

/// bcrypt looks at the first 72 bytes, of which the last is the NUL that ends a C string, when it still fits.
fn bcrypt(cost: u32, salt: &[u8], password: &[u8], out: &mut [u8]) -> bool {
    let mut text = Zeroizing::new([0; 72]);
    let length = password.len().min(text.len());
    text[..length].copy_from_slice(&password[..length]);
    let text = &text[..(length + 1).min(72)];
    let Ok(salt) = salt.try_into() else { return false };
    let hash = Zeroizing::new(bcrypt::bcrypt(cost, salt, text));
    let fits = out.len() <= hash.len();
    if fits {
        out.copy_from_slice(&hash[..out.len()]);
    }
    fits
}

fn scrypt((log_n, r, p): (u8, u32, u32), salt: &[u8], password: &[u8], out: &mut [u8]) -> bool {
    scrypt::Params::new(log_n, r, p, 32).is_ok_and(|params| scrypt::scrypt(password, salt, &params, out).is_ok())
}

/// AES-256 in counter mode from zero, which is its own inverse.
fn aes_256_ctr(key: &[u8; 32], in_out: &mut [u8]) -> bool {
    let iv = DecryptionContext::Iv128(FixedLength::from([0; 16]));
    let key = UnboundCipherKey::new(&AES_256, key).and_then(DecryptingKey::ctr);
    key.is_ok_and(|key| key.decrypt(in_out, iv).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(password: &str, stored: &str) -> bool {
        let params = Params::new(64, 1, 1, Some(32)).unwrap();
        let mut memory = no_memory();
        let mut check =
            |password: &str, compare| check(&SecretString::new(password), Some(stored), compare, &params, &mut memory);
        let others = [format!("{password}x"), format!(" {password}"), String::new(), password.to_uppercase()];
        for other in others.iter().filter(|other| *other != password) {
            assert!(!check(other, true), "{other:?} passes for {password:?}");
        }
        assert!(!check(password, false), "compared although told not to");
        check(password, true)
    }

    #[test]
    fn a_new_hash_is_right_for_its_password_whatever_the_memory_was_used_for() {
        let params = Params::new(64, 2, 1, Some(32)).unwrap();
        let mut memory = no_memory();
        memory.resize(200, Block::default());
        let password = SecretString::new("correct horse");
        let first = hash(&password, &params, &mut memory).unwrap();
        let second = hash(&password, &params, &mut memory).unwrap();
        assert!(first.starts_with("$argon2id$v=19$m=64,t=2,p=1$") && first != second);
        assert!(right("correct horse", &first) && right("correct horse", &second));
    }

    /// Not only the first time. Other tests take and give back memory meanwhile, so not each round has to show it.
    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_given_back_whenever_it_is_dropped() {
        let mine_kib = || -> i64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let gives_back = |_: &i32| {
            let mut memory = no_memory();
            make_room(&mut memory, 19 * 1024);
            memory.iter_mut().for_each(|block| block.as_mut()[0] = 1);
            let before = mine_kib();
            drop(memory);
            before - mine_kib() > 15 * 1024
        };
        let rounds = (0..8).filter(gives_back).count();
        assert!(rounds >= 5, "19 MiB were given back in {rounds} of 8 rounds");
    }

    /// Vectors that others published, or computed by other implementations.
    #[test]
    fn public_vectors() {
        for (password, stored) in [
            // The tests of Openwall's crypt_blowfish.
            ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
            ("U*U*", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"),
            ("U*U*U", "$2b$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a"),
            ("\u{a3}".repeat(0).as_str(), "$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy"),
            // jBCrypt's.
            ("abcdefghijklmnopqrstuvwxyz", "$2a$08$aTsUwsyowQuzRrDqFflhgekJ8d9/7Z3GV3UcgvzQW3J5zMyrTvlz."),
            // RFC 7914 §12 and §11.
            (
                "password",
                "$scrypt$ln=10,r=8,p=16$TmFDbA$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWIurzDZLiKjiG/xCSedmDDaxyevuUqD7m2DYMvfoswGQA",
            ),
            (
                "passwd",
                "$pbkdf2-sha256$i=1$c2FsdA$VawEblbjCJ/sFpHCJUS2BflBhSFt3gRl5oudV8INrLxJypzM8Xm2RZkWZLOdd+8xfHG4RbHjC9UJESBB06GXgw",
            ),
            // passlib's documentation.
            ("password", "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"),
            ("password", "$pbkdf2-sha256$6400$0ZrzXitFSGltTQnBWOsdAw$Y11AchqV4b0sUisdZd0Xr97KWoymNE0LNNrnEgY4H9M"),
            // Python's hashlib.
            ("lètmein", "pbkdf2_sha256$12000$seasalt$Ybw8zsFxqja97tY/o6G+Fy1ksY4U/Hw3DRrGED6Up4s="),
            (
                "correct horse",
                "$pbkdf2-sha512$i=1000,l=64$c2Vhc2FsdA$CBx2rkpvjyEAoopNVuRZWOOxTTRwoV6JjrHARZAmWoRGf7Bll/+N6ttV/4gWvtd16NJ94OpVpZHm44IdMrFULg",
            ),
            // The command of the reference implementation of Argon2.
            ("password", "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA"),
            ("password", "$argon2i$m=65536,t=2,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ"),
            ("password", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"),
        ] {
            assert!(right(password, stored), "{password:?} {stored}");
        }
    }

    /// The example of Firebase's own repository.
    #[test]
    fn firebase_as_it_documents_itself() {
        let stored = stored_hash::firebase(
            "lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==",
            "42xEC+ixf3L2lw==",
            "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==",
            "Bw==",
            8,
            14,
        );
        assert!(right("user1password", &stored.unwrap()));
    }

    #[test]
    fn bcrypt_looks_at_72_bytes() {
        let salt = [7; 16];
        let hash = |password: &[u8]| {
            let mut out = [0; 23];
            assert!(bcrypt(4, &salt, password, &mut out));
            out
        };
        assert_eq!(hash(&[b'x'; 72]), hash(&[b'x'; 100]));
        assert_ne!(hash(&[b'x'; 71]), hash(&[b'x'; 72]));
    }
}
