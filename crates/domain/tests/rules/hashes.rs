//! Stored password hashes: what is read, and what is refused.
use crate::world::Seeded;
use portcullis_domain::stored_hash::{Scheme, firebase, parse};

const HASH: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const SIGNER: &str = "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==";
const FIREBASE: &str = "lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==";

#[test]
fn every_scheme_is_read() {
    for text in [
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$(HASH)".to_owned(),
        "$argon2i$v=16$m=64,t=1,p=1$c29tZXNhbHQ$(HASH)".to_owned(),
        "$argon2d$m=64,t=1,p=1$c29tZXNhbHQ$(HASH)".to_owned(),
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW".to_owned(),
        "$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW".to_owned(),
        "$2y$15$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW".to_owned(),
        "$scrypt$ln=16,r=8,p=1$c2FsdA$(HASH)".to_owned(),
        "$pbkdf2-sha256$i=1000$c2FsdA$(HASH)".to_owned(),
        "$pbkdf2-sha256$i=1000,l=32$c2FsdA$(HASH)".to_owned(),
        "$pbkdf2-sha512$29000$c2.sdA$(HASH)".to_owned(),
        "pbkdf2_sha256$600000$seasalt$(HASH)=".to_owned(),
        "pbkdf2_sha512$1$seasalt$(HASH)=".to_owned(),
    ] {
        let text = text.replace("(HASH)", HASH);
        assert!(parse(&text).is_ok(), "{text}: {:?}", parse(&text));
    }
    let kept = firebase(FIREBASE, "42xEC+ixf3L2lw==", SIGNER, "Bw==", 8, 14).unwrap();
    let stored = parse(&kept).unwrap();
    assert!(matches!(stored.scheme, Scheme::Firebase { log_n: 14, r: 8, .. }) && stored.salt.ends_with(&[7]), "{kept}");
}

#[test]
fn what_is_absurd_short_or_unknown_is_refused() {
    for (text, why) in [
        ("", "not known"),
        ("secret", "not known"),
        ("$", "not known"),
        ("$md5$abc", "not known"),
        ("{SSHA}abc", "not known"),
        ("$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "not known"),
        ("$2a$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "looks like"),
        ("$2a$5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "looks like"),
        ("$2a$+5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "looks like"),
        ("$2a$16$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "at most 15"),
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe", "looks like"),
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe+", "looks like"),
        ("$2a$05$ÄCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "looks like"),
        ("$argon2id$v=18$m=64,t=1,p=1$c29tZXNhbHQ$(HASH)", "versions"),
        ("$argon2id$v=19$m=64,t=1$c29tZXNhbHQ$(HASH)", "in this order"),
        ("$argon2id$v=19$t=1,m=64,p=1$c29tZXNhbHQ$(HASH)", "in this order"),
        ("$argon2id$v=19$m=64,t=1,p=1,x=1$c29tZXNhbHQ$(HASH)", "no others"),
        ("$argon2id$v=19$m=4294967296,t=1,p=1$c29tZXNhbHQ$(HASH)", "whole number"),
        ("$argon2id$v=19$m=-64,t=1,p=1$c29tZXNhbHQ$(HASH)", "whole number"),
        ("$argon2id$v=19$m=1048576,t=1,p=1$c29tZXNhbHQ$(HASH)", "memory"),
        ("$argon2id$v=19$m=262144,t=100,p=1$c29tZXNhbHQ$(HASH)", "too long"),
        ("$argon2id$v=19$m=64,t=4000000,p=1$c29tZXNhbHQ$(HASH)", "too long"),
        ("$argon2id$v=19$m=64,t=1,p=0$c29tZXNhbHQ$(HASH)", "lanes"),
        ("$argon2id$v=19$m=64,t=1,p=99$c29tZXNhbHQ$(HASH)", "lanes"),
        ("$argon2id$v=19$m=64,t=0,p=1$c29tZXNhbHQ$(HASH)", "lanes"),
        ("$argon2id$v=19$m=64,t=1,p=1$c2FsdA$(HASH)", "salt"),
        ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$AAAA", "16 to 64"),
        ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ", "looks like"),
        ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$(HASH)$x", "looks like"),
        ("$argon2id$v=19$m=64,t=1,p=1$***$(HASH)", "no base64"),
        ("$scrypt$ln=31,r=8,p=1$c2FsdA$(HASH)", "from 1 to 30"),
        ("$scrypt$ln=0,r=8,p=1$c2FsdA$(HASH)", "from 1 to 30"),
        ("$scrypt$ln=20,r=8,p=1$c2FsdA$(HASH)", "memory"),
        ("$scrypt$ln=18,r=8,p=64$c2FsdA$(HASH)", "too long"),
        ("$scrypt$ln=10,r=8,p=1$$(HASH)", "salt"),
        ("$scrypt$ln=10,r=8,p=1$c2FsdA$AAAA", "16 to 64"),
        ("$pbkdf2-sha256$i=0$c2FsdA$(HASH)", "iterations"),
        ("$pbkdf2-sha256$i=10000001$c2FsdA$(HASH)", "iterations"),
        ("$pbkdf2-sha256$i=1000,l=31$c2FsdA$(HASH)", "as long"),
        ("$pbkdf2-sha1$i=1000$c2FsdA$(HASH)", "not known"),
        ("$pbkdf2-sha256$$c2FsdA$(HASH)", "whole number"),
        ("pbkdf2_sha1$1000$salt$(HASH)", "Django"),
        ("pbkdf2_sha256$$salt$(HASH)", "whole number"),
        ("pbkdf2_sha256$1000$salt$AAAA", "16 to 64"),
        ("pbkdf2_sha256$1000$$(HASH)", "salt"),
        ("$firebase-scrypt$ln=14,r=8$c2FsdA$AAAA$(HASH)", "as long as the signer key"),
    ] {
        let text = text.replace("(HASH)", HASH);
        let told = parse(&text).map(|_| ()).unwrap_err();
        assert!(told.contains(why), "{text}: {told}");
        assert!(!told.contains("c29tZXNhbHQ") && !told.contains("AAAAAAAA"), "it shows the hash: {told}");
    }
    assert!(parse(&format!("$2a$05${}", "x".repeat(600))).unwrap_err().contains("at most 512"));
    assert!(firebase(FIREBASE, "*", SIGNER, "Bw==", 8, 14).unwrap_err().contains("salt is no base64"));
    assert!(firebase(FIREBASE, "42xEC+ixf3L2lw==", "AAAA", "Bw==", 8, 14).unwrap_err().contains("signer key"));
    assert!(firebase(FIREBASE, "42xEC+ixf3L2lw==", SIGNER, "Bw==", 8, 25).unwrap_err().contains("memory"));
}

#[test]
fn what_is_worse_is_upgraded() {
    let worse = |text: &str| parse(&text.replace("(HASH)", HASH)).unwrap().is_worse_than(19_456, 2);
    assert!(!worse("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$(HASH)"));
    assert!(!worse("$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$(HASH)"), "a better one stays");
    for text in [
        "$argon2id$v=19$m=19455,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$(HASH)",
        "$argon2id$v=19$m=65536,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$(HASH)",
        "$argon2id$v=16$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2FsdA$(HASH)",
        "$argon2i$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2FsdA$(HASH)",
        "$2a$15$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$scrypt$ln=17,r=8,p=1$c2FsdA$(HASH)",
        "pbkdf2_sha256$1000000$seasalt$(HASH)",
    ] {
        assert!(worse(text), "{text}");
    }
}

/// Whatever is cut, doubled or changed: it is read or refused, and what is read keeps to the bounds.
#[test]
fn garbage_never_escapes_the_bounds() {
    let seeds = [
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$(HASH)",
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$scrypt$ln=16,r=8,p=1$c2FsdA$(HASH)",
        "$pbkdf2-sha256$i=1000,l=32$c2FsdA$(HASH)",
        "pbkdf2_sha512$600000$seasalt$(HASH)",
        "$firebase-scrypt$ln=14,r=8$c2FsdA$(HASH)$(HASH)",
    ];
    let mut dice = Seeded(7);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..40_000 {
        let mut text: Vec<char> = seeds[dice.below(6) as usize].replace("(HASH)", HASH).chars().collect();
        for _ in 0..dice.below(4) {
            let at = dice.below(text.len() as u64) as usize;
            let letter = ['$', '9', '=', ',', 'A', '.', '/', 'ä', '\0', '1'][dice.below(10) as usize];
            match dice.below(3) {
                0 => text[at] = letter,
                1 => text.insert(at, letter),
                _ => drop(text.remove(at)),
            }
        }
        let text: String = text.into_iter().collect();
        let Ok(stored) = parse(&text) else {
            refused += 1;
            continue;
        };
        read += 1;
        assert!((16..=64).contains(&stored.hash.expose().len()) && (4..=64).contains(&stored.salt.len()), "{text}");
        let kib = match stored.scheme {
            Scheme::Argon2 { memory_kib, passes, .. } => u64::from(memory_kib) * u64::from(passes),
            Scheme::Bcrypt { cost } => u64::from(cost <= 15) - 1,
            Scheme::Scrypt { log_n, r, p } => (u64::from(r * p) << log_n) / 8,
            Scheme::Firebase { log_n, r, .. } => (u64::from(r) << log_n) / 8,
            Scheme::Pbkdf2 { iterations, .. } => u64::from(iterations <= 10_000_000) - 1,
        };
        assert!(kib <= 4 << 20, "{text}");
    }
    assert!(read > 5_000 && refused > 5_000, "{read} {refused}");
}
