//! What a policy file may be, and what is said of one that is none.
use portcullis_domain::risk::{Judge, Outcome, Signals, strongest};
use portcullis_rules::Policy;

fn rule(name: &str, acts: &str, when: &str, then: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nacts = [{acts}]\nwhen = \"{when}\"\nthen = [{then}]\nreason = \"Why.\"\n")
}

/// All faults of a file, as they are printed.
fn said(text: &str) -> Vec<String> {
    Policy::parse(text).map_or_else(|faults| faults.iter().map(ToString::to_string).collect(), |_| vec![])
}

fn refused(rules: &str, at: &str, what: &str) {
    let said = said(&format!("version = \"1\"\n{rules}"));
    assert!(
        said.iter().any(|one| one.starts_with(at) && one.contains(what)),
        "wanted {at}… {what}, got {said:?} of\n{rules}"
    );
}

#[test]
fn the_default_policy_is_taken_and_does_something() {
    let policy = Policy::parse(portcullis_rules::DEFAULT).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(policy.version(), Policy::built_in().version());
    let rules: Vec<_> = policy.rules().collect();
    assert!(rules.len() > 10 && rules.iter().all(|(_, reason, _)| reason.ends_with('.')));
    // Of everyday acts nothing is said.
    for (act, what) in [
        ("sign_in", ""),
        ("refresh", "rotated"),
        ("refresh", "again"),
        ("refresh", "skipped"),
        ("prove", ""),
        ("sighting", ""),
    ] {
        let verdict = policy.judge(&Signals::calm(act, what));
        assert!(verdict.hits.is_empty(), "{act} {what}: {:?}", verdict.hits);
    }
    let fraud = policy.judge(&Signals::calm("external", "fraud"));
    assert_eq!(strongest(&fraud).unwrap().1, Outcome::EndAll);
    assert_eq!(fraud.version, policy.version());
}

/// Guesses are free: as many as one likes, at whose account one likes, may keep nobody out who has the right password.
#[test]
fn no_guesses_of_others_keep_anybody_out() {
    let policy = Policy::built_in();
    for account in [0, 6, 30, 1_000] {
        for prefix in [0, 6, 100, 10_000] {
            for known_device in [false, true] {
                let signals = Signals {
                    guesses_account: account,
                    guesses_prefix: prefix,
                    known_device,
                    new_device: !known_device,
                    new_network: true,
                    new_agent: true,
                    ..Signals::calm("sign_in", "")
                };
                let verdict = policy.judge(&signals);
                let does = strongest(&verdict).map(|(_, outcome)| outcome);
                assert!(!does.is_some_and(|outcome| outcome.ends()), "{account} {prefix}: {does:?}");
            }
        }
    }
}

/// Whoever signs in for an application lets it in a second later, on a journey too. Another credential is another thing.
#[test]
fn who_signs_in_to_an_application_abroad_stays_signed_in() {
    let policy = Policy::built_in();
    for (what, ends) in [("app", false), ("key", true), ("email", true), ("factor", true), ("password", true)] {
        let signals = Signals {
            session_new_device: true,
            session_new_country: true,
            session_new_network: true,
            session_age_s: 2,
            changes: 1,
            ..Signals::calm("change", what)
        };
        let does = strongest(&policy.judge(&signals)).map(|(_, outcome)| outcome);
        assert_eq!(does.is_some_and(Outcome::ends), ends, "{what}: {does:?}");
    }
}

/// A neighbour's mistakes, or three tries of somebody who means it, refuse nobody.
#[test]
fn a_few_wrong_passwords_of_neighbours_refuse_nobody() {
    let policy = Policy::built_in();
    for first in [false, true] {
        for guesses_prefix in 0..4 {
            let signals = Signals {
                breached: true,
                new_device: !first,
                new_network: !first,
                first,
                guesses_prefix,
                ..Signals::calm("sign_in", "")
            };
            let does = strongest(&policy.judge(&signals)).map(|(_, outcome)| outcome);
            assert!(!does.is_some_and(Outcome::ends), "{first} {guesses_prefix}: {does:?}");
        }
    }
}

#[test]
fn faults_say_where_and_what_to_do() {
    let sign_in = "\"sign_in\"";
    let ok = "signal.hops > 2";
    refused(
        &rule("a", sign_in, "signal.new_devcie", "\"notify\""),
        "line 5, column 9",
        "did you mean `signal.new_device`?",
    );
    refused(
        &rule("a", sign_in, "act.ok && signal.hop > 2", "\"notify\""),
        "line 5, column 19",
        "did you mean `signal.hops`?",
    );
    refused(&rule("a", sign_in, "signal.hops", "\"notify\""), "line 5, column 9", "must be true or false");
    refused(&rule("a", "", ok, "\"notify\""), "line 4, column 8", "about at least one act");
    refused(&rule("a", "\"sign-in\"", ok, "\"notify\""), "line 4, column 9", "no act; there are sign_up");
    refused(&rule("a", "\"sign_in\", \"sign_in\"", ok, "\"notify\""), "line 4, column 20", "twice");
    refused(&rule("a", sign_in, ok, ""), "line 6, column 8", "at least one outcome");
    refused(&rule("a", sign_in, ok, "\"kill\""), "line 6, column 9", "no outcome; there are allow");
    refused(&rule("a", sign_in, ok, "\"block 24 h\""), "line 6, column 9", "is no time");
    refused(&rule("a", sign_in, ok, "\"block 0h\""), "line 6, column 9", "is no time");
    refused(&rule("a", sign_in, ok, "\"block 9999999d\""), "line 6, column 9", "is no time");
    refused(&rule("a", sign_in, ok, "\"block 1h\", \"block\""), "line 6, column 8", "one block is enough");
    refused(&rule("a", sign_in, ok, "\"allow\", \"notify\""), "line 6, column 8", "stands alone");
    refused(&rule("A rule", sign_in, ok, "\"notify\""), "line 3, column 8", "lower-case letters");
    refused(&(rule("a", sign_in, ok, "\"notify\"") + "extra = 1\n"), "line 8, column 1", "extra");
    refused("[[rule]]\nname = \"a\"\n", "line 2", "missing field");
    refused("rule = 3\n", "line 2", "");
    refused("[[rule]\n", "line 2", "");
    let twice = rule("a", sign_in, ok, "\"notify\"").repeat(2);
    refused(&twice, "line 9, column 8", "first in line 3");
    assert!(said("").iter().any(|one| one.contains("missing field `version`")));
    assert!(said("version = \" \"\n").iter().any(|one| one.starts_with("line 1, column 11: the version")));
    assert!(said("version = 1\n")[0].starts_with("line 1, column 11"));
    assert!(said(&"#".repeat(portcullis_rules::MAX_FILE + 1))[0].contains("bytes"));
    // All that is wrong is said at once.
    let both = rule("a", sign_in, "signal.x", "\"kill\"") + &rule("b", "", ok, "\"notify\"");
    assert_eq!(said(&format!("version = \"1\"\n{both}")).len(), 3);
}

#[test]
fn places_in_longer_texts_are_right() {
    let when = "when = '''\n  signal.hops > 2\n  && signal.new_devcie\n'''";
    let text = format!(
        "version = \"1\"\n[[rule]]\nname = \"a\"\nacts = [\"sign_in\"]\n{when}\nthen = [\"notify\"]\nreason = \"Why.\"\n"
    );
    let said = said(&text);
    assert!(said[0].starts_with("line 7, column 6:"), "{said:?}");
}

#[test]
fn a_rule_that_would_end_everybody_is_refused_unless_it_is_a_shadow() {
    for (acts, when) in [
        ("\"sign_in\"", "true"),
        ("\"sign_in\"", "signal.hops >= 0 || signal.hops < 0"),
        ("\"sign_in\"", "!signal.new_device"),
        ("\"sign_in\"", "signal.guesses_account < 5"),
        ("\"refresh\"", "signal.session_age_s > 60"),
        ("\"refresh\", \"sign_in\"", "act.kind == 'refresh' && act.what == 'again'"),
        ("\"change\"", "act.kind == 'change'"),
        ("\"sighting\"", "from.country != 'DE'"),
    ] {
        for then in ["\"end_session\"", "\"end_all\", \"notify\"", "\"block\"", "\"block 1h\""] {
            refused(&rule("a", acts, when, then), "line 5, column 9", "everybody");
            let shadow = format!("version = \"1\"\n{}shadow = true\n", rule("a", acts, when, then));
            assert_eq!(said(&shadow), [""; 0], "{shadow}");
        }
        for then in ["\"notify\"", "\"throttle\"", "\"allow\""] {
            assert_eq!(said(&format!("version = \"1\"\n{}", rule("a", acts, when, then))), [""; 0], "{when}");
        }
    }
    for (acts, when) in [
        ("\"external\"", "act.what == 'fraud'"),
        ("\"sign_in\"", "signal.new_device"),
        ("\"change\"", "act.what == 'email'"),
    ] {
        assert_eq!(said(&format!("version = \"1\"\n{}", rule("a", acts, when, "\"end_all\""))), [""; 0], "{when}");
    }
}

#[test]
fn an_allow_that_hides_what_comes_after_it_is_refused() {
    let later = rule("b", "\"sign_in\"", "signal.hops > 2", "\"end_session\"");
    let hides = rule("a", "\"sign_in\", \"refresh\"", "signal.km >= -1 || true", "\"allow\"");
    refused(&format!("{hides}{later}"), "line 9, column 8", "never counts, since `a`");
    // Not where it is narrow, a shadow, about other acts, or behind.
    let narrow = rule("a", "\"sign_in\"", "from.country == 'DE'", "\"allow\"");
    let shadow = format!("{hides}shadow = true\n");
    let other = rule("a", "\"refresh\"", "true", "\"allow\"");
    for fine in
        [format!("{narrow}{later}"), format!("{shadow}{later}"), format!("{other}{later}"), format!("{later}{hides}")]
    {
        assert_eq!(said(&format!("version = \"1\"\n{fine}")), [""; 0], "{fine}");
    }
}

#[test]
fn a_block_that_has_nothing_beside_it_is_warned_of() {
    let text = |then: &str, more: &str| {
        let one = rule("one", "\"sign_in\"", "signal.fraud && signal.new_device", then);
        format!("version = \"1\"\n{one}{more}")
    };
    let warnings = |text: &str| {
        let policy = Policy::parse(text).unwrap();
        policy.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let said = warnings(&text("\"block 24h\", \"notify\"", ""));
    assert!(said.len() == 1 && said[0].contains("`one` blocks") && said[0].contains("end_all"), "{said:?}");
    let line = text("\"block\"", "").lines().position(|line| line.starts_with("then")).unwrap() + 1;
    assert!(warnings(&text("\"block\"", ""))[0].starts_with(&format!("line {line}, column ")));
    assert_eq!(warnings(&text("\"block\", \"end_all\"", "")), [""; 0]);
    assert_eq!(warnings(&text("\"block\"", "shadow = true\n")), [""; 0]);
    assert_eq!(warnings(&text("\"end_session\"", "")), [""; 0]);
    assert_eq!(warnings(portcullis_rules::DEFAULT), [""; 0]);
}

#[test]
fn rules_are_about_their_acts_only_and_shadows_are_marked() {
    let text = format!(
        "version = \"7\"\n{}{}shadow = true\n",
        rule("one", "\"sign_in\"", "signal.hops > 2", "\"block 30m\", \"notify\""),
        rule("two", "\"refresh\", \"sign_in\"", "signal.hops > 2", "\"end_all\""),
    );
    let policy = Policy::parse(&text).unwrap();
    let signals = |act| Signals { hops: 3, ..Signals::calm(act, "") };
    let names =
        |act| policy.judge(&signals(act)).hits.iter().map(|hit| (hit.rule.clone(), hit.shadow)).collect::<Vec<_>>();
    assert_eq!(names("sign_in"), [("one".into(), false), ("two".into(), true)]);
    assert_eq!(names("refresh"), [("two".into(), true)]);
    assert_eq!(names("change"), []);
    let verdict = policy.judge(&signals("sign_in"));
    assert_eq!(strongest(&verdict).unwrap().1, Outcome::Block { for_ms: Some(1_800_000) });
    assert_eq!(policy.judge(&Signals::calm("sign_in", "")).hits, []);
}
