//! Settings, as `serve` and `config check` read them.
use crate::support::{Dir, portcullis, run};

#[test]
fn flag_before_environment_before_file_before_default() {
    let dir = Dir::new();
    dir.write("portcullis.toml", "access_ttl = \"1m\"\nidle_ttl = \"1h\"\nbound = \"2s\"\n");
    let mut command = portcullis(&dir.0, &["config", "check", "--json", "--access-ttl", "3m"]);
    let ran = command.env("PORTCULLIS_ACCESS_TTL", "2m").env("PORTCULLIS_IDLE_TTL", "2h").output().unwrap();
    let settings = crate::support::Ran::from(ran).must(0, "").json();
    for (name, value, source) in [
        ("access_ttl", "3m", "--access-ttl"),
        ("idle_ttl", "2h", "PORTCULLIS_IDLE_TTL"),
        ("bound", "2s", "portcullis.toml:3"),
        ("late_retry", "24h", "default"),
        ("issuer", "http://127.0.0.1:7400", "default"),
    ] {
        let setting = &settings["settings"][name];
        assert_eq!((setting["value"].as_str(), setting["source"].as_str()), (Some(value), Some(source)), "{name}");
    }
    assert_eq!(settings["file"], "portcullis.toml");
}

#[test]
fn a_file_in_the_data_directory_is_found_and_a_named_one_must_be_there() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path("portcullis-data")).unwrap();
    dir.write("portcullis-data/portcullis.toml", "bound = \"3s\"\n");
    run(&dir.0, &["config", "check"]).must(0, "portcullis-data/portcullis.toml:1");
    dir.write("mine.toml", "bound = \"4s\"\n");
    run(&dir.0, &["config", "check", "--config", "mine.toml"]).must(0, "mine.toml:1");
    run(&dir.0, &["config", "check", "--config", "other.toml"]).must(2, "other.toml cannot be read");
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_exit_code_2() {
    let dir = Dir::new();
    let file = dir.write("portcullis.toml", "# ours\nacess_ttl = \"5m\"\n");
    let expected = "portcullis.toml:2: unknown key acess_ttl; did you mean access_ttl?";
    run(&dir.0, &["config", "check"]).must(2, expected);
    run(&dir.0, &["serve"]).must(2, expected);
    let json = run(&dir.0, &["config", "check", "--json"]).must(2, "").json();
    assert_eq!(json["problems"][0], expected);
    std::fs::remove_file(file).unwrap();

    for (args, said) in [
        (["--access-ttl", "5"], "a duration needs a number and a unit"),
        (["--issuer", "http://id.example.org"], "must be https"),
        (["--listen", "0.0.0.0:7400"], "issuer must be set"),
        (["--database-url", "postgres://db/x"], "master_key must be set with PostgreSQL"),
        (["--master-key", "c2hvcnQ"], "must be 32 bytes in base64"),
        (["--acess-ttl", "5m"], "--access-ttl"),
    ] {
        let ran = run(&dir.0, &[&["serve"], &args[..]].concat()).must(2, said);
        assert!(!ran.err.contains("c2hvcnQ") && ran.out.is_empty(), "{ran:?}");
    }
    assert!(!dir.path("portcullis-data").exists(), "a start that cannot be made leaves nothing behind");

    let mut command = portcullis(&dir.0, &["config", "check"]);
    let ran = command.env("PORTCULLIS_REQUIRE_VERIFIED_EMAIL", "on").output().unwrap();
    crate::support::Ran::from(ran).must(2, "require_verified_email = \"on\": needs mail_url");
    let mut command = portcullis(&dir.0, &["serve"]);
    let ran = command.env("PORTCULLIS_BOUNT", "3s").output().unwrap();
    crate::support::Ran::from(ran).must(2, "PORTCULLIS_BOUNT is no setting; did you mean PORTCULLIS_BOUND?");
}

#[test]
fn secrets_are_masked_and_may_stand_in_files() {
    let dir = Dir::new();
    let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let path = dir.write("key", &format!("{key}\n"));
    let mut command = portcullis(&dir.0, &["config", "check"]);
    command.env("PORTCULLIS_MASTER_KEY_FILE", &path).env("PORTCULLIS_BOOTSTRAP_ADMIN", "a@example.org:hunter2hunter2");
    let ran = crate::support::Ran::from(command.output().unwrap()).must(0, "PORTCULLIS_MASTER_KEY_FILE");
    assert!(!ran.out.contains(key) && !ran.out.contains("hunter2"), "{ran:?}");
    command.env("PORTCULLIS_MASTER_KEY", key);
    let ran = crate::support::Ran::from(command.output().unwrap()).must(2, "are both set");
    assert!(!ran.err.contains(key), "{ran:?}");
}

#[test]
fn usage_errors_exit_2_and_help_exits_0() {
    let dir = Dir::new();
    run(&dir.0, &[]).must(2, "Usage");
    run(&dir.0, &["accounts"]).must(2, "Usage");
    run(&dir.0, &["accounts", "block", "x@example.org"]).must(2, "--reason");
    run(&dir.0, &["nonsense"]).must(2, "nonsense");
    run(&dir.0, &["--help"]).must(0, "demo-api");
    run(&dir.0, &["serve", "--help"]).must(0, "--retry-window");
    run(&dir.0, &["--version"]).must(0, env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_documentation_tells_of_every_setting_and_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let dir = Dir::new();
    let settings = portcullis(&dir.0, &["config", "check", "--json"]).env_clear().output().unwrap();
    let settings = crate::support::Ran::from(settings).must(0, "").json();
    for (name, setting) in settings["settings"].as_object().unwrap() {
        let row = docs.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md does not tell of {name}"));
        let value = setting["value"].as_str().unwrap();
        let derived =
            value.starts_with('(') || ["issuer", "audience", "database_url", "hash_threads"].contains(&name.as_str());
        assert!(derived || row.contains(&format!("`{value}`")), "{name}: {value} is not in {row}");
    }
}
