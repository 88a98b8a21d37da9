//! Every path that is counted is gone, and ends as it should. (With a test here cargo builds the programs, which `cargo xtask test` counts.)
use std::process::Command;

#[test]
fn every_path_can_be_gone() {
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_portcullis-instructions");
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let paths = run(&[]);
    assert!(paths.lines().any(|path| path == "repeat"), "{paths}");
    for path in paths.lines() {
        run(&[path, "3"]);
    }
}
