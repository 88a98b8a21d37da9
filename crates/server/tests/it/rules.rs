//! `portcullis rules`: policies, without a server.
use crate::support::{Dir, run};

#[test]
fn a_policy_is_checked_with_line_and_column() {
    let dir = Dir::new();
    let default = run(&dir.0, &["rules", "default"]).must(0, "[[rule]]").out;
    dir.write("mine.toml", &default);
    run(&dir.0, &["rules", "check", "mine.toml"]).must(0, "replayed-token");
    let broken = default.replacen("signal.other_program", "signal.other_programm", 1).replacen(
        "\"end_all\"",
        "\"end_everything\"",
        1,
    );
    dir.write("broken.toml", &broken);
    let said = run(&dir.0, &["rules", "check", "broken.toml"]).must(2, "did you mean `signal.other_program`?");
    let mut places =
        broken.lines().zip(1..).filter_map(|(text, line)| Some((line, text.find("signal.other_programm")? + 1)));
    let (line, column) = places.next().unwrap();
    assert!(said.err.contains(&format!("broken.toml:{line}:{column}: ")), "{}", said.err);
    assert!(said.err.contains("`end_everything` is no outcome"), "{}", said.err);
    dir.write("all.toml", "version = \"1\"\n[[rule]]\nname = \"all\"\nacts = [\"sign_in\"]\nwhen = \"true\"\nthen = [\"block\"]\nreason = \"Why.\"\n");
    run(&dir.0, &["rules", "check", "all.toml"]).must(2, "all.toml:5:9: the condition holds whatever happens");
    let lone = "version = \"1\"\n[[rule]]\nname = \"lone\"\nacts = [\"sign_in\"]\nwhen = \"signal.fraud\"\nthen = [\"block\"]\nreason = \"Why.\"\n";
    dir.write("lone.toml", lone);
    run(&dir.0, &["rules", "check", "lone.toml"]).must(0, "lone.toml:6:8: warning: `lone` blocks");
    run(&dir.0, &["rules", "check", "missing.toml"]).must(2, "missing.toml: ");
    std::fs::write(dir.path("bytes.toml"), [0xff, 0xfe]).unwrap();
    run(&dir.0, &["rules", "check", "bytes.toml"]).must(2, "no text in UTF-8");
}
