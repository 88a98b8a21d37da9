//! Conditions mean what CEL means by them, and what is none is refused.
use crate::rows::Seeded;
use cel::{Context, Program, Value};
use portcullis_domain::risk::{FIELDS, Kind, Word};
use portcullis_rules::condition::{Condition, MAX_NODES};
use std::collections::HashMap;

/// A random row.
fn row(chance: &mut Seeded) -> Vec<Word<'static>> {
    const TEXTS: [&str; 6] = ["", "theft", "rotated", "DE", "firefox/linux", "email"];
    const NUMBERS: [i64; 9] = [0, 1, -1, 2, 3, 7, 600, i64::MAX, i64::MIN];
    let words = FIELDS.iter().map(|field| match field.kind {
        Kind::Bool => Word::Bool(chance.below(2) == 1),
        Kind::Int => Word::Int(NUMBERS[chance.below(9) as usize]),
        Kind::Text => Word::Text(TEXTS[chance.below(6) as usize]),
    });
    words.collect()
}

/// The row as CEL's own interpreter takes it.
fn context(row: &[Word<'_>]) -> Context<'static, 'static> {
    let mut maps: HashMap<String, HashMap<String, Value>> = HashMap::new();
    for (field, word) in FIELDS.iter().zip(row) {
        let (of, name) = field.name.split_once('.').unwrap();
        let value = match word {
            Word::Bool(yes) => Value::Bool(*yes),
            Word::Int(number) => Value::Int(*number),
            Word::Text(text) => Value::String(std::sync::Arc::new((*text).to_owned())),
        };
        maps.entry(of.into()).or_default().insert(name.into(), value);
    }
    let mut context = Context::default();
    for (name, map) in maps {
        context.add_variable_from_value(name, map);
    }
    context
}

const SOME: [&str; 14] = [
    "signal.new_device && !signal.first || act.what == 'theft'",
    "signal.km * 2 > signal.kmh + 3 && act.ok",
    "act.ok || signal.km / signal.kmh > 1",
    "signal.km / signal.kmh > 1 || act.ok",
    "signal.km % signal.hops == 1 && act.ok",
    "from.country in ['DE', 'AT'] ? signal.hops >= 2 : signal.turns != 0",
    "-signal.km < signal.kmh - 1",
    "!(act.ok == signal.first) && true",
    "from.country != '' && from.asn == 0",
    "signal.session_age_s in [1, 2, -1]",
    "(signal.leaked || signal.breached) && (signal.new_network || signal.new_country)",
    "signal.first == (signal.hops > 2)",
    "(act.ok ? signal.hops : signal.turns) <= 3",
    "false || signal.lost && signal.fraud",
];

#[test]
fn what_cel_means_by_it_is_what_it_means() {
    let default: toml::Value = toml::from_str(portcullis_rules::DEFAULT).unwrap();
    let own = default["rule"].as_array().unwrap().iter().map(|rule| rule["when"].as_str().unwrap().to_owned());
    let mut chance = Seeded(11);
    let (mut held, mut not, mut failed) = (0, 0, 0);
    for text in SOME.iter().map(|text| (*text).to_owned()).chain(own) {
        let ours = Condition::parse(&text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
        let theirs = Program::compile(&text).unwrap();
        for _ in 0..200 {
            let row = row(&mut chance);
            let (a, b) = (ours.holds(&row), theirs.execute(&context(&row)));
            match (&a, &b) {
                (Ok(a), Ok(Value::Bool(b))) if a == b => {
                    if *a {
                        held += 1
                    } else {
                        not += 1
                    }
                }
                (Err(_), Err(_)) => failed += 1,
                _ => panic!("{text}: here {a:?}, by CEL {b:?}, of {row:?}"),
            }
        }
    }
    println!("{held} held, {not} did not, {failed} failed, here and there");
    assert!(held > 500 && not > 500 && failed > 50);
}

/// What is wrong, and where.
fn wrong(text: &str) -> (usize, String) {
    let wrong = Condition::parse(text).expect_err(text);
    (wrong[0].at, wrong[0].what.clone())
}

#[test]
fn what_is_none_is_refused_where_it_is_wrong() {
    for (text, at, said) in [
        ("signal.new_devcie", 0, "did you mean `signal.new_device`?"),
        ("act.ok && signal.hop > 2", 10, "did you mean `signal.hops`?"),
        ("signal.hops", 0, "must be true or false"),
        ("signal.hops && act.ok", 0, "`&&` wants true or false"),
        ("act.ok == 1", 10, "wants true or false"),
        ("signal.hops > 'a'", 14, "wants a whole number"),
        ("signal.hops > 2.5", 14, "without a point"),
        ("signal.hops > 2u", 14, "without `u`"),
        ("act.kind == 'sing_in'", 12, "is never 'sing_in'"),
        ("act.what in ['email', 'mail']", 22, "is never 'mail'"),
        ("from.country.startsWith('D')", 0, "operators only"),
        ("size(from.country) > 1", 0, "operators only"),
        ("matches(from.country, '(a+)+')", 0, "operators only"),
        ("[1, 2].exists(x, x > 1)", 0, "are not taken"),
        ("has(signal.hops)", 0, "always there"),
        ("{'a': true}['a']", 0, ""),
        ("from.country in from.agent", 16, "wants a list"),
        ("signal", 0, "there is no `signal`"),
        ("null == null", 0, "no signal is null"),
    ] {
        let (place, what) = wrong(text);
        assert!(what.contains(said), "{text}: {what}");
        assert!(said.is_empty() || place.abs_diff(at) <= 8, "{text}: at {place}, not {at}: {what}");
    }
    for text in ["", "act.ok &&", "act.ok = true", "(act.ok", "'a", "act.ok; act.ok", "\u{0}", "act.ok \u{202e}"] {
        assert!(wrong(text).1.contains("no expression"), "{text}: {:?}", wrong(text));
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let many = vec!["act.ok"; MAX_NODES].join(" && ");
    assert!(Condition::parse(&many).is_err());
    assert!(Condition::parse(&vec!["act.ok"; MAX_NODES / 2].join("&&")).is_ok());
    let deep = format!("{}act.ok{}", "(".repeat(900), ")".repeat(900));
    assert!(Condition::parse(&deep).is_err());
    assert!(Condition::parse(&"!".repeat(1900)).is_err());
    assert!(Condition::parse(&format!("{}act.ok", "!".repeat(1900))).is_err() || Condition::parse("!!act.ok").is_ok());
    assert!(Condition::parse(&" ".repeat(3000)).is_err());
}

/// Whatever a file holds, it is taken or refused, and no panic comes of it.
#[test]
fn anything_at_all_is_taken_or_refused() {
    const PARTS: &[&str] = &[
        "signal.hops",
        "act.ok",
        "act.what",
        "'theft'",
        "\"x\"",
        "1",
        "-1",
        "9223372036854775808",
        "1e400",
        "0x",
        "&&",
        "||",
        "!",
        "?",
        ":",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        ",",
        "in",
        "==",
        ">=",
        "+",
        "%",
        "true",
        "null",
        "has(",
        ".all(x, x)",
        "\\u12",
        "`a`",
        "'''",
        "r'",
        "b'\\xff'",
        "\n",
        "// c",
        "\u{1f600}",
    ];
    let mut chance = Seeded(5);
    let mut taken = 0;
    for _ in 0..4000 {
        let text: Vec<&str> = (0..chance.below(14)).map(|_| PARTS[chance.below(PARTS.len() as u64) as usize]).collect();
        let text = text.join(if chance.below(2) == 0 { " " } else { "" });
        taken += usize::from(Condition::parse(&text).is_ok());
        let file = format!(
            "version = '1'\n[[rule]]\nname = 'a'\nacts = ['sign_in']\nwhen = '''{text}'''\nthen = ['notify']\nreason = 'Why.'\n"
        );
        if let Err(faults) = portcullis_rules::Policy::parse(&file) {
            assert!(!faults.is_empty() && faults.iter().all(|fault| fault.line > 0 && fault.column > 0));
        }
    }
    for (one, times) in [
        ("act.ok ? act.ok : ", 100),
        ("a.", 900),
        ("1 + ", 400),
        ("[", 1500),
        ("act.ok == ", 150),
        ("- ", 900),
        ("x(", 600),
    ] {
        assert!(Condition::parse(&one.repeat(times)).is_err(), "{one}");
        assert!(Condition::parse(&format!("{}1", one.repeat(times))).is_err(), "{one}");
    }
    println!("{taken} of 4000 taken");
    assert!(taken > 0);
}
