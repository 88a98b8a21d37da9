//! Stolen passwords: a sorted file that is searched, refused for new passwords, told to the rules at a sign-in.
use crate::world::{PASSWORD, World, bearer, settings};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use portcullis_app::breached::List;
use portcullis_app::sessions::Credentials;
use portcullis_app::{AppError, Tokens};
use portcullis_domain::Refused;
use portcullis_domain::model::SessionKind;
use portcullis_domain::risk::{Judge, Signals, Verdict};
use portcullis_domain::sign_in::SignIn;
use portcullis_wire::{Code, SecretString};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

fn sha1(text: &str) -> [u8; 20] {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref().try_into().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A file that goes with the test.
struct Scrap(PathBuf);

impl Drop for Scrap {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn scrap(text: &[u8]) -> Scrap {
    let name = format!("portcullis-breached-{}-{:x}", std::process::id(), rand());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    Scrap(path)
}

fn rand() -> u128 {
    use portcullis_domain::Chance as _;
    portcullis_app::real::RealChance.bits()
}

/// The lines of so many passwords, sorted, with counts of several lengths.
fn list_of(passwords: &[String], end: &str) -> String {
    let mut hashes: Vec<[u8; 20]> = passwords.iter().map(|password| sha1(password)).collect();
    hashes.sort_unstable();
    let line = |(n, hash): (usize, &[u8; 20])| format!("{}:{}{end}", hex(hash), 10_u64.pow(n as u32 % 9));
    hashes.iter().enumerate().map(line).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("password number {n}")).collect()
}

#[test]
fn each_line_is_found_and_nothing_else() {
    for (count, end) in [(1, "\n"), (2, "\r\n"), (99, "\n"), (5000, "\r\n"), (5000, "\n")] {
        let all = names(count);
        let text = list_of(&all, end);
        // The last line may have no end.
        for text in [text.as_str(), text.trim_end()] {
            let file = scrap(text.as_bytes());
            for whole in [0, u64::MAX] {
                let list = List::open_up_to(&file.0, whole).unwrap();
                assert!(all.iter().all(|name| list.has(&sha1(name)).unwrap()), "{count} {end:?}");
                let others = (0..2000).map(|n| format!("another {n}"));
                assert!(others.map(|name| sha1(&name)).all(|hash| !list.has(&hash).unwrap()), "{count} {end:?}");
                assert!(!list.has(&[0; 20]).unwrap() && !list.has(&[255; 20]).unwrap());
            }
        }
    }
}

#[test]
fn digests_without_counts_and_in_small_letters_are_read() {
    let text = list_of(&names(300), "\n");
    let plain: String = text.lines().map(|line| format!("{}\n", line[..40].to_lowercase())).collect();
    let file = scrap(plain.as_bytes());
    let list = List::open(&file.0).unwrap();
    assert!(names(300).iter().all(|name| list.has(&sha1(name)).unwrap()));
}

#[test]
fn what_is_no_such_list_is_refused_in_words() {
    let good = list_of(&names(5000), "\n");
    let mut by_count: Vec<&str> = good.lines().collect();
    by_count.sort_by_key(|line| line[41..].len());
    let by_count = by_count.join("\n");
    let ntlm: String = good.lines().map(|line| format!("{}\n", &line[8..])).collect();
    let twice = format!("{}\n{good}", &good[..good.find('\n').unwrap()]);
    let cut = &good[..good.len() - 30];
    for (text, words) in [
        ("", "is empty"),
        (&by_count, "not sorted"),
        (&twice, "not sorted"),
        (&ntlm, "NTLM"),
        (cut, "SHA1:COUNT"),
        ("hello\n", "SHA1:COUNT"),
        ("PK\u{3}\u{4} a zip file", "SHA1:COUNT"),
        (&"x".repeat(100_000), "SHA1:COUNT"),
        (&format!("{}:\n", "A".repeat(40)), "SHA1:COUNT"),
        (&format!("{}:1\n", "G".repeat(40)), "SHA1:COUNT"),
    ] {
        let file = scrap(text.as_bytes());
        for whole in [0, u64::MAX] {
            let why = List::open_up_to(&file.0, whole).map(drop).unwrap_err();
            assert!(why.contains(words), "{words}: {why}");
        }
    }
    assert!(List::open(&std::env::temp_dir()).map(drop).unwrap_err().contains("no file"));
    assert!(List::open(&std::env::temp_dir().join("there is none")).map(drop).unwrap_err().contains("cannot be read"));
}

/// A fault where nobody has looked is met by a look-up, and said; it is never taken for a line.
#[test]
fn what_breaks_later_is_an_error_and_no_answer() {
    let all = names(5000);
    let file = scrap(list_of(&all, "\n").as_bytes());
    let list = List::open(&file.0).unwrap();
    let open = std::fs::OpenOptions::new().write(true).open(&file.0).unwrap();
    open.write_all_at(&vec![b'x'; 100_000], 50_000).unwrap();
    let answers: Vec<_> = all.iter().map(|name| list.has(&sha1(name))).collect();
    assert!(answers.iter().any(|answer| answer.is_err()));
    open.set_len(10).unwrap();
    assert!(all.iter().all(|name| !list.has(&sha1(name)).is_ok_and(|found| found)));
}

/// Rules that write down what they are asked.
struct Listening(Arc<Mutex<Vec<bool>>>);

impl Judge for Listening {
    fn judge(&self, signals: &Signals) -> Verdict {
        self.0.lock().unwrap().push(signals.breached);
        Verdict::nothing("test 1")
    }
    fn version(&self) -> &str {
        "test 1"
    }
}

async fn sign_in(world: &World, password: &str) -> Result<Tokens, AppError> {
    let identifier = world.ada.email.clone().unwrap();
    let credentials = Credentials { identifier, password: SecretString::new(password), device: None };
    let request = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None };
    world.app.sign_in(credentials, request, false).await
}

fn stolen(world: &World, passwords: &[&str]) -> Scrap {
    let all: Vec<String> = passwords.iter().map(|password| (*password).to_owned()).collect();
    let file = scrap(list_of(&all, "\n").as_bytes());
    world.app.set_breached(Some(List::open(&file.0).unwrap()));
    file
}

#[tokio::test]
async fn a_stolen_password_is_told_at_a_sign_in_and_keeps_nobody_out() {
    let world = World::start().await;
    let heard = Arc::<Mutex<Vec<bool>>>::default();
    world.app.set_judge(Some(Box::new(Listening(heard.clone()))));
    sign_in(&world, PASSWORD).await.unwrap();
    let _file = stolen(&world, &[PASSWORD, "a wrong password"]);
    sign_in(&world, PASSWORD).await.unwrap();
    assert_eq!(sign_in(&world, "a wrong password").await.unwrap_err().code(), Code::InvalidCredentials);
    let _other = stolen(&world, &["not hers"]);
    sign_in(&world, PASSWORD).await.unwrap();
    world.app.set_breached(None);
    sign_in(&world, PASSWORD).await.unwrap();
    assert_eq!(*heard.lock().unwrap(), [false, true, false, false]);
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, AppError>, member: &str) -> bool {
    matches!(result, Err(AppError::Refused(Refused::PasswordBreached { field })) if field == member)
}

#[tokio::test]
async fn no_new_password_is_a_stolen_one() {
    let world = World::start().await;
    let mine = sign_in(&world, PASSWORD).await.unwrap();
    let _file = stolen(&world, &["a stolen password", PASSWORD]);
    let stolen = || SecretString::new("a stolen password");
    // Alike for an address that is taken.
    for email in ["new@example.org", "ada@example.org"] {
        assert!(is_refused(world.app.sign_up(email, stolen(), None, None).await, "password"), "{email}");
    }
    let made =
        world.app.admin_create_account(&world.admin, "new@example.org", Some(stolen()), None, vec![], false, None);
    assert!(is_refused(made.await, "password"));
    let caller = world.caller(&mine).await.unwrap();
    // With a wrong password nothing is said of the new one.
    let wrong = world.app.change_my_password(&caller, SecretString::new("a wrong password"), stolen(), false, None);
    assert_eq!(wrong.await.unwrap_err().code(), Code::InvalidCredentials);
    let change = |new| world.app.change_my_password(&caller, SecretString::new(PASSWORD), new, false, None);
    assert!(is_refused(change(stolen()).await, "new_password"));
    change(SecretString::new("another good password")).await.unwrap();
    world.app.refresh(&mine.refresh_token, bearer()).await.unwrap();
}

#[tokio::test]
async fn an_operator_may_have_rules_told_and_nothing_refused() {
    let mut settings = settings();
    settings.policy.refuse_breached = false;
    let world = World::with(settings).await;
    let _file = stolen(&world, &["a stolen password"]);
    world.app.sign_up("new@example.org", SecretString::new("a stolen password"), None, None).await.unwrap();
}
