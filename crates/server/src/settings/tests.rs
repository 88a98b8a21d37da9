//! Every source, its rank, and what is said when something is wrong.
use super::*;

fn env(pairs: &[(&str, &str)]) -> Environment {
    Environment(pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::new(*value))).collect())
}

fn flags(pairs: &[(&'static str, &str)]) -> Flags {
    Flags { config: None, given: pairs.iter().map(|(name, value)| (*name, SecretString::new(*value))).collect() }
}

/// A directory that goes away with the test.
struct Dir(PathBuf);
impl Dir {
    fn new(name: &str, file: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("portcullis-settings-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(sources::FILE_NAME), file).unwrap();
        Self(dir)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn read(flags: &Flags, env: &Environment, cwd: &Path) -> Result<Settings, Problems> {
    Settings::read(Gathered::from(flags, env, cwd))
}

fn source(settings: &Settings, name: &str) -> String {
    settings.shown.iter().find(|shown| shown.name == name).unwrap().source.to_string()
}

/// Who sets `late_retry` alone gets that alone, and `0s` is strict.
#[test]
fn a_late_retry_of_ones_own_is_the_limit_at_home_too() {
    const DAY: i64 = 86_400_000;
    for (file, expected) in [
        ("", (DAY, 14 * DAY)),
        ("late_retry = \"2h\"\n", (7_200_000, 7_200_000)),
        ("late_retry = \"2h\"\nlate_retry_at_home = \"3d\"\n", (7_200_000, 3 * DAY)),
        ("late_retry_at_home = \"3d\"\n", (DAY, 3 * DAY)),
        ("late_retry_at_home = \"1h\"\n", (DAY, DAY)),
        ("late_retry = \"0s\"\n", (0, 0)),
        ("late_retry = \"0s\"\nlate_retry_at_home = \"3d\"\n", (0, 0)),
    ] {
        let dir = Dir::new("late", file);
        let settings = read(&flags(&[]), &env(&[]), &dir.0).unwrap();
        assert_eq!((settings.late_retry, settings.late_retry_at_home), expected, "{file}");
    }
}

#[test]
fn flag_before_environment_before_file_before_default() {
    let dir = Dir::new("rank", "# ours\naccess_ttl = \"1m\"\nidle_ttl = \"1h\"\nlate_retry = \"2h\"\n");
    let env = env(&[("PORTCULLIS_ACCESS_TTL", "2m"), ("PORTCULLIS_IDLE_TTL", "2h")]);
    let settings = read(&flags(&[("access_ttl", "3m")]), &env, &dir.0).unwrap();
    assert_eq!((settings.access_ttl, source(&settings, "access_ttl").as_str()), (180_000, "--access-ttl"));
    assert_eq!((settings.idle_ttl, source(&settings, "idle_ttl").as_str()), (7_200_000, "PORTCULLIS_IDLE_TTL"));
    assert_eq!((settings.late_retry, source(&settings, "late_retry").as_str()), (7_200_000, "portcullis.toml:4"));
    assert_eq!((settings.retry_window, source(&settings, "retry_window").as_str()), (10_000, "default"));
}

#[test]
fn defaults_are_complete_and_strong() {
    let settings = read(&Flags::default(), &Environment::default(), Path::new("/nonexistent")).unwrap();
    assert_eq!(settings.listen, "127.0.0.1:7400".parse().unwrap());
    assert_eq!(settings.issuer_at(settings.listen), "http://127.0.0.1:7400");
    assert_eq!(settings.for_app(settings.listen).rules.audience, "http://127.0.0.1:7400");
    assert_eq!((settings.hashing.memory_kib, settings.hashing.passes), (19_456, 2));
    assert_eq!((settings.bound, settings.access_ttl), (5000, 300_000));
    assert_eq!(settings.database_name(), "portcullis-data/portcullis.db");
    assert!(settings.warnings.is_empty() && settings.sign_up);
}

#[test]
fn all_problems_at_once_each_with_its_place() {
    let file = "acess_ttl = \"5m\"\nbound = 5\n\nrequire_verified_email = 3\nidle_ttl = \"5\"\nlog_format = \"xml\"\nsign_up = 1\n";
    let dir = Dir::new("wrong", file);
    let env = env(&[
        ("PORTCULLIS_ISSUER", "http://id.example.org"),
        ("PORTCULLIS_DATABASE_URL", "mysql://u:hush@db/x"),
        ("PORTCULLIS_MASTER_KEY", "hush-hush-hush"),
    ]);
    let Err(Problems(problems)) = read(&flags(&[("hash_queue", "0")]), &env, &dir.0) else { panic!("accepted") };
    let all = problems.join("\n");
    for expected in [
        "portcullis.toml:1: unknown key acess_ttl; did you mean access_ttl?",
        "portcullis.toml:2: bound must be a string with a unit",
        "portcullis.toml:4: require_verified_email must be true, false",
        "idle_ttl = \"5\": a duration needs a number and a unit",
        "(from portcullis.toml:5)",
        "log_format = \"xml\": must be one of text, json (from portcullis.toml:6)",
        "portcullis.toml:7: sign_up must be true, false",
        "issuer = \"http://id.example.org\": must be https; http is for loopback addresses only (from PORTCULLIS_ISSUER)",
        "database_url must be sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE (from PORTCULLIS_DATABASE_URL)",
        "master_key must be 32 bytes in base64 (from PORTCULLIS_MASTER_KEY)",
        "hash_queue = \"0\": must be a whole number between 1 and 1000000 (from --hash-queue)",
    ] {
        assert!(all.contains(expected), "missing: {expected}\nin:\n{all}");
    }
    assert!(!all.contains("hush"), "{all}");
    assert_eq!(problems.len(), 10, "{all}");
}

#[test]
fn a_file_that_is_no_toml_is_told_by_line_and_without_its_text() {
    let dir = Dir::new("toml", "bound = \"5s\"\nmaster_key = \"secret-secret\nx\n");
    let Err(Problems(problems)) = read(&Flags::default(), &Environment::default(), &dir.0) else { panic!("accepted") };
    assert!(problems[0].starts_with("portcullis.toml:2: "), "{problems:?}");
    assert!(!problems[0].contains("secret-secret"), "{problems:?}");
    let twice = Dir::new("twice", "bound = \"5s\"\nbound = \"6s\"\n");
    let Err(Problems(problems)) = read(&Flags::default(), &Environment::default(), &twice.0) else {
        panic!("accepted")
    };
    assert!(problems[0].starts_with("portcullis.toml:2: "), "{problems:?}");
}

#[test]
fn secrets_come_from_files_too_and_are_never_shown() {
    let key = MasterKey::generate();
    let dir = Dir::new("secret", "");
    let path = dir.0.join("key");
    std::fs::write(&path, format!("{}\n", key.to_text().expose())).unwrap();
    let path = path.to_str().unwrap();
    let by_file =
        env(&[("PORTCULLIS_MASTER_KEY_FILE", path), ("PORTCULLIS_BOOTSTRAP_ADMIN", "a@b.example:hunter2hunter2")]);
    let settings = read(&Flags::default(), &by_file, &dir.0).unwrap();
    assert!(settings.master_key.is_some());
    let (email, password) = settings.bootstrap_admin.clone().unwrap();
    assert_eq!((email.as_str(), password.expose()), ("a@b.example", "hunter2hunter2"));
    let printed = format!("{settings:?} {}", to_json(&settings));
    assert!(!printed.contains("hunter2") && !printed.contains(key.to_text().expose()), "{printed}");

    let both = env(&[("PORTCULLIS_MASTER_KEY_FILE", path), ("PORTCULLIS_MASTER_KEY", key.to_text().expose())]);
    let Err(Problems(problems)) = read(&Flags::default(), &both, &dir.0) else { panic!("accepted") };
    assert!(problems[0].contains("both set"), "{problems:?}");
    // a file for what is no secret is not a thing; others use the prefix too
    let odd = env(&[
        ("PORTCULLIS_BOUND_FILE", path),
        ("PORTCULLIS_PORT", "tcp://10.0.0.1:80"),
        ("PORTCULLIS_PORT_7400_TCP_PROTO", "tcp"),
        ("PORTCULLIS_SERVICE_HOST", "10.0.0.1"),
        ("PORTCULLIS_SERVICE_PORT_HTTPS", "443"),
    ]);
    let settings = read(&Flags::default(), &odd, &dir.0).unwrap();
    assert_eq!(settings.warnings.len(), 1, "{:?}", settings.warnings);
    // a misspelt setting is an error, as everywhere
    let misspelt = env(&[("PORTCULLIS_ACESS_TTL", "5m"), ("PORTCULLIS_TRUSTED_PROXY", "10.0.0.1")]);
    let Err(Problems(problems)) = read(&Flags::default(), &misspelt, &dir.0) else { panic!("accepted") };
    assert!(problems[0].contains("PORTCULLIS_ACESS_TTL is no setting; did you mean PORTCULLIS_ACCESS_TTL?"));
    assert!(problems[1].ends_with("did you mean PORTCULLIS_TRUSTED_PROXIES?"), "{problems:?}");
}

#[test]
fn postgresql_wants_a_master_key_and_shows_no_password() {
    let dir = Dir::new("postgres", "");
    let url = "postgres://port:hunter2@db.example:5432/portcullis?sslmode=require&password=hunter2";
    let Err(Problems(problems)) = read(&flags(&[("database_url", url)]), &Environment::default(), &dir.0) else {
        panic!("accepted")
    };
    assert!(problems.len() == 1 && problems[0].starts_with("master_key must be set with PostgreSQL"), "{problems:?}");
    let key = MasterKey::generate();
    let (path, key) = (dir.0.join("url"), key.to_text());
    std::fs::write(&path, url).unwrap();
    let env = env(&[("PORTCULLIS_DATABASE_URL_FILE", path.to_str().unwrap()), ("PORTCULLIS_MASTER_KEY", key.expose())]);
    let settings = read(&Flags::default(), &env, &dir.0).unwrap();
    let printed = format!("{settings:?} {} {}", to_json(&settings), settings.database_name());
    assert!(!printed.contains("hunter2"), "{printed}");
    assert_eq!(
        to_json(&settings)["settings"]["database_url"]["value"],
        "postgres://port:(secret)@db.example:5432/portcullis"
    );
    for (url, shown) in [
        ("postgres://u@h/x", "postgres://u@h/x"),
        ("postgres://u:a@b@h/x", "postgres://u:(secret)@h/x"),
        ("postgres:hunter2", "(secret)"),
    ] {
        assert_eq!(super::values::masked_url(url), shown);
    }
}

#[test]
fn values() {
    let empty = Dir::new("values", "");
    let ok =
        |name: &'static str, value: &str| read(&flags(&[(name, value)]), &Environment::default(), &empty.0).is_ok();
    for (name, right, wrong) in [
        (
            "issuer",
            &["https://id.example.org", "https://id.example.org:8443", "http://localhost:7400", "http://[::1]:1"][..],
            &[
                "id.example.org",
                "https://",
                "https://x/",
                "https://x/path",
                "https://x?q",
                "https://u@x",
                "http://10.0.0.1",
                "ftp://x",
            ][..],
        ),
        ("listen", &["127.0.0.1:0", "[::1]:7400", "localhost:80"], &["7400", "127.0.0.1", "example.org:80", ":80"]),
        (
            "database_url",
            &["sqlite:///tmp/x.db", "sqlite://x.db"],
            &["x.db", "sqlite://", "mysql://x", "sqlite://x?mode=ro"],
        ),
        ("argon2_memory", &["64", "64KiB", "19MiB"], &["4", "64kb", "2GiB", "", "-1"]),
        (
            "allowed_origins",
            &["https://a.example,http://localhost:3000", ""],
            &["*", "https://a.example/", "null", "a.example"],
        ),
        ("trusted_proxies", &["127.0.0.1,10.0.0.0/8,::1"], &["10.0.0.0/33", "proxy.example"]),
        (
            "outgoing_ca",
            &[concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/ca.pem")],
            &["", "nothing.pem", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/two.key")],
        ),
        ("outgoing_private", &["10.0.0.0/8,fd00::/8", "127.0.0.1", "all"], &["10.0.0.0/33", "localhost", "true,"]),
        (
            "bootstrap_admin",
            &["a@example.org:long enough: yes"],
            &["a@example.org", "a@example.org:short", "nobody:long enough"],
        ),
        ("access_ttl", &["1s", "60m"], &["0s", "61m", "5"]),
        ("late_retry", &["0s"], &["-1s"]),
        ("log_level", &["debug", "info,portcullis_app=trace"], &["loud=loud", ""]),
    ] {
        for value in right {
            assert!(ok(name, value), "{name} = {value}");
        }
        for value in wrong {
            assert!(!ok(name, value), "{name} = {value}");
        }
    }
    // off loopback the issuer must be said
    assert!(!ok("listen", "0.0.0.0:7400"));
    let public = flags(&[("listen", "0.0.0.0:7400"), ("issuer", "https://id.example.org")]);
    assert!(read(&public, &Environment::default(), &empty.0).is_ok());
    let weak = read(&flags(&[("argon2_memory", "64")]), &Environment::default(), &empty.0).unwrap();
    assert!(weak.warnings[0].starts_with("WEAK PASSWORD HASHING"));
}

#[test]
fn other_providers_are_tables_of_the_file() {
    let file = "sign_up = true\n[[upstream]]\nid = \"corp\"\nname = \"Corp\"\nissuer = \"https://id.corp.example\"\nclient_id = \"us\"\n\
        client_secret_file = \"secret\"\n[[upstream]]\nid = \"github\"\nkind = \"github\"\nclient_id = \"us\"\nclient_secret = \"s\"\n";
    let dir = Dir::new("upstream", file);
    std::fs::write(dir.0.join("secret"), "from a file\n").unwrap();
    let settings = read(&Flags::default(), &Environment::default(), &dir.0).unwrap();
    let [corp, github] = &settings.for_app(settings.listen).upstreams[..] else { panic!("two") };
    assert_eq!((corp.name.as_str(), corp.issuer.as_str()), ("Corp", "https://id.corp.example"));
    assert_eq!((corp.client_secret.expose(), corp.scopes.len()), ("from a file", 3));
    assert_eq!((github.name.as_str(), github.issuer.as_str()), ("github", "https://github.com"));
    assert!(!format!("{settings:?}").contains("from a file"));
    let good = "id = \"a\"\nissuer = \"https://a.example\"\nclient_id = \"us\"\nclient_secret = \"hidden\"\n";
    for (wrong, said) in [
        ("[upstream]\nid = \"a\"".to_owned(), "array of tables"),
        (format!("[[upstream]]\n{good}secret = 1"), "unknown key secret"),
        (format!("[[upstream]]\n{good}kind = \"saml\""), "kind must be"),
        (format!("[[upstream]]\n{good}scopes = [\"email\"]"), "openid"),
        (format!("[[upstream]]\n{good}client_secret_env = \"X\""), "one of client_secret"),
        (format!("[[upstream]]\n{good}[[upstream]]\n{good}"), "given twice"),
        (format!("[[upstream]]\n{}", good.replace("https", "http")), "issuer must be"),
        (format!("[[upstream]]\n{}", good.replace("\"a\"", "\"A b\"")), "id must have"),
        (format!("[[upstream]]\n{}", good.replace("client_id", "name")), "client_id is missing"),
    ] {
        let dir = Dir::new("upstream-wrong", &wrong);
        let problems = read(&Flags::default(), &Environment::default(), &dir.0).unwrap_err().to_string();
        assert!(problems.contains(said) && problems.contains("portcullis.toml:"), "{said}: {problems}");
        assert!(!problems.contains("hidden"), "{problems}");
    }
}

const APP: &str = "id = \"cli_00000000000000000000000001\"\nname = \"The shop\"\n";

#[test]
fn clients_stand_in_the_file() {
    let dir = Dir::new("clients", "");
    let secret = "s".repeat(43);
    std::fs::write(dir.0.join("secret"), format!("{secret}\n")).unwrap();
    let file = format!(
        "client_access_ttl_max = \"1h\"\n[[clients]]\n{APP}kind = \"confidential\"\nsecret_file = \"{}\"\n\
         redirect_uris = [\"https://shop.example.org/cb\"]\naccess_ttl_s = 3_600\nconsent = \"implied\"\n\n\
         [[clients]]\nid = \"cli_00000000000000000000000002\"\nname = \"By key\"\nkind = \"confidential\"\n\
         grant_types = [\"client_credentials\"]\ntoken_endpoint_auth_method = \"private_key_jwt\"\n\
         jwks = {{ keys = [{{ kty = \"EC\", crv = \"P-256\", x = \"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\", y = \"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\" }}] }}\n",
        dir.0.join("secret").display()
    );
    std::fs::write(dir.0.join(sources::FILE_NAME), file).unwrap();
    let settings = read(&Flags::default(), &Environment::default(), &dir.0).unwrap();
    assert_eq!(settings.for_app(settings.listen).rules.longest_ttl, 3_600_000);
    let [shop, by_key] = &settings.configured[..] else { panic!("{:?}", settings.configured) };
    assert_eq!((shop.name.as_str(), shop.profile.access_ttl_s), ("The shop", Some(3600)));
    assert_eq!(shop.secret, Some(SecretString::new(secret).digest()));
    assert_eq!((by_key.secret, by_key.profile.jwks.as_ref().unwrap()["keys"][0]["kty"].as_str()), (None, Some("EC")));
}

#[test]
fn what_is_wrong_with_clients_is_told_with_its_place() {
    let web = "redirect_uris = [\"https://a.example/\"]\n";
    for (entry, told) in [
        (format!("{APP}kind = \"public\"\n{web}colour = \"red\"\n"), "unknown key colour"),
        (
            format!("{APP}kind = \"public\"\n{web}secret = \"hush-hush\"\n"),
            "give the secret by secret_file or secret_env",
        ),
        (format!("{APP}kind = \"public\"\n{web}service_account = \"acc_x\"\n"), "it is made with the client"),
        (format!("{APP}kind = \"public\"\n{web}deleted = true\n"), "unknown key deleted"),
        (format!("{APP}kind = \"public\"\ngrant_types = [\"authorization_code\"]\n"), "must have at least one address"),
        (format!("{APP}kind = \"public\"\n{web}access_ttl_s = 301\n"), "access_ttl_s must be 1 to 300"),
        (format!("{APP}kind = \"public\"\n{web}scopes = [\"admin\"]\n"), "is the built-in client's"),
        (format!("{APP}kind = \"public\"\n{web}scopes = \"openid\"\n"), "invalid type"),
        (format!("{APP}kind = \"confidential\"\n{web}"), "secret_file or secret_env is missing"),
        (format!("{APP}kind = \"confidential\"\n{web}secret_file = \"/nonexistent\"\n"), "/nonexistent cannot be read"),
        (
            format!("{APP}kind = \"confidential\"\n{web}secret_env = \"NOT_SET_ANYWHERE\"\n"),
            "NOT_SET_ANYWHERE is not set",
        ),
        (
            format!("{APP}kind = \"confidential\"\n{web}secret_env = \"HOME\"\n"),
            "must have 43 to 1024 visible ASCII characters; `openssl rand -hex 32` makes one",
        ),
        (format!("{APP}kind = \"robot\"\n"), "kind must be verifier, confidential or public"),
        (format!("{APP}kind = \"public\"\n{web}client_uri = 1979-05-27\n"), "holds texts, whole numbers"),
        ("name = \"x\"\nkind = \"verifier\"\n".into(), "here is one that is free: cli_"),
        ("id = \"portcullis\"\nname = \"x\"\nkind = \"verifier\"\n".into(), "id must be a client's id"),
        (
            format!("{APP}kind = \"public\"\n{web}\n[[clients]]\n{APP}kind = \"public\"\n{web}"),
            "another of the [[clients]]",
        ),
    ] {
        let dir = Dir::new("wrong-clients", &format!("[[clients]]\n{entry}"));
        let refused = read(&Flags::default(), &Environment::default(), &dir.0);
        let Err(Problems(problems)) = refused else { panic!("accepted: {entry}") };
        let all = problems.join("\n");
        assert!(all.contains(told) && all.contains("portcullis.toml:") && !all.contains("hush"), "{told}: {all}");
    }
    let dir = Dir::new("no-clients", "clients = \"a\"\n");
    assert!(read(&Flags::default(), &Environment::default(), &dir.0).is_err());
}

#[test]
fn registration_and_key_scopes() {
    let get = |pairs: &[(&str, &str)]| read(&Flags::default(), &env(pairs), Path::new("/nonexistent"));
    let token = "t".repeat(32);
    let settings = get(&[("PORTCULLIS_DYNAMIC_REGISTRATION", "token"), ("PORTCULLIS_REGISTRATION_TOKEN", &token)]);
    assert!(matches!(settings.unwrap().clients.registration, Registration::ByToken(_)));
    assert!(get(&[("PORTCULLIS_DYNAMIC_REGISTRATION", "token")]).is_err());
    assert!(get(&[("PORTCULLIS_REGISTRATION_TOKEN", "short")]).is_err());
    assert!(matches!(get(&[]).unwrap().clients.registration, Registration::Off));
    let scopes = get(&[("PORTCULLIS_API_KEY_SCOPES", "read, write")]).unwrap().clients.api_key_scopes;
    assert_eq!(scopes, ["read", "write"]);
    for wrong in ["admin", "account", "openid", "a\"b"] {
        assert!(get(&[("PORTCULLIS_API_KEY_SCOPES", wrong)]).is_err(), "{wrong}");
    }
    assert!(get(&[("PORTCULLIS_CLIENT_ACCESS_TTL_MAX", "61m")]).is_err());
}
