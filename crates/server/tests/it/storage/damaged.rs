//! Files as a crash, a hand or a dying disk leaves them: every start serves all that was answered, or says what is wrong and
//! changes nothing.
use super::acts::once;
use super::place::serving;
use crate::kept::{Session, insist, sign_in, sign_up, turn};
use crate::support::{Dir, Ran, Running, Server, run};
use portcullis_testkit::lasting_address;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

const DB: &str = "portcullis.db";
const WAL: &str = "portcullis.db-wal";
const SHM: &str = "portcullis.db-shm";
const MARK: &str = "high-water.json";
const PAGE: usize = 4096;
const FRAME: usize = 24 + PAGE;
const WAL_HEAD: usize = 32;

/// The files of a data directory, by name.
type Files = BTreeMap<String, Vec<u8>>;

/// A server's files, and what was answered.
struct Base {
    /// Killed: the newest commits are in the write-ahead log alone.
    killed: Files,
    /// Ended in order: the log is moved and gone.
    ended: Files,
    /// The files of another server, killed.
    foreign: Files,
    kept: Session,
    gone: Session,
}

impl Base {
    async fn make() -> Self {
        let (dir, at) = (Dir::new(), lasting_address());
        let (kept, gone) = told(&dir, at).await;
        let killed = read(&dir);
        let mut server = Server::run(serving(&dir, at)).await;
        server.process.signal(Signal::TERM);
        server.process.ended().await;
        let ended = read(&dir);
        let other = Dir::new();
        told(&other, at).await;
        Self { killed, ended, foreign: read(&other), kept, gone }
    }
}

/// A server that is killed after an end was answered and its mark written; who was kept, and who was ended.
async fn told(dir: &Dir, at: SocketAddr) -> (Session, Session) {
    let mut server = Server::run(serving(dir, at)).await;
    let email = sign_up(at, "ada").await;
    let (kept, gone) = (sign_in(at, &email).await, sign_in(at, &email).await);
    // The log was moved once; what comes now is in the log alone.
    let database = dir.path("data").join(DB);
    let size = || fs::metadata(&database).unwrap().len();
    super::acts::until("a checkpoint", async || size() > 10 * PAGE as u64).await;
    insist(at, "DELETE", "/v1/me/sessions/current", Some(&gone.access), None).await.must(200);
    let mark = dir.path("data").join(MARK);
    super::acts::until("the mark", async || fs::read_to_string(&mark).is_ok_and(|text| text.contains("\"rev\":1")))
        .await;
    server.process.signal(Signal::KILL);
    server.process.ended().await;
    (kept, gone)
}

/// All plain files.
fn read(dir: &Dir) -> Files {
    let all = fs::read_dir(dir.path("data")).unwrap().map(Result::unwrap);
    let plain = all.filter(|entry| entry.file_type().unwrap().is_file());
    plain.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn write(dir: &Dir, files: &Files) {
    fs::create_dir(dir.path("data")).unwrap();
    for (name, bytes) in files {
        fs::write(dir.path("data").join(name), bytes).unwrap();
    }
}

/// What a start must come to.
enum Outcome {
    /// It serves, and everything that was answered is there.
    Serves,
    /// It is shut, for the mark tells that commits are missing.
    Shut,
    /// It refuses to start with one of these texts, and changes no file that holds data.
    Refused(&'static [&'static str]),
}
use Outcome::{Refused, Serves, Shut};

/// What is done to the files.
type Damage = fn(&mut Files, &Base);

fn of<'a>(files: &'a mut Files, name: &str) -> &'a mut Vec<u8> {
    files.get_mut(name).unwrap()
}

const KILLED: &[(&str, Damage, Outcome)] = &[
    ("nothing", |_, _| {}, Serves),
    ("the index is garbage", |files, _| of(files, SHM).fill(0xa5), Serves),
    ("the index is gone", |files, _| drop(files.remove(SHM)), Serves),
    ("the log ends with half a frame", |files, _| of(files, WAL).extend([7; FRAME / 2]), Serves),
    ("the log is cut in its first frame", |files, _| of(files, WAL).truncate(WAL_HEAD + FRAME / 2), Shut),
    ("the log is cut in its head", |files, _| of(files, WAL).truncate(WAL_HEAD / 2), Shut),
    ("the log is empty", |files, _| of(files, WAL).clear(), Shut),
    ("the log is gone", |files, _| drop(files.remove(WAL)), Shut),
    ("the log is garbage", |files, _| of(files, WAL).fill(0xa5), Shut),
    (
        "the frames are of an earlier round of the log",
        |files, _| of(files, WAL)[WAL_HEAD..].chunks_mut(FRAME).for_each(|frame| frame[8] ^= 1),
        Shut,
    ),
    (
        "the log is another database's",
        |files, base| *of(files, WAL) = base.foreign[WAL].clone(),
        Refused(&["is damaged", "says that it should hold"]),
    ),
    ("the database is empty, its log is not", |files, _| of(files, DB).clear(), Refused(&["there is no database"])),
    ("the database is gone, its log is not", |files, _| drop(files.remove(DB)), Refused(&["there is no database"])),
    (
        "the database is empty, its log is not, and no mark tells of it",
        |files, _| {
            of(files, DB).clear();
            files.remove(MARK);
        },
        Refused(&["is damaged (it is empty, and its log is not)"]),
    ),
    (
        "the database is gone, its log is not, and no mark tells of it",
        |files, _| {
            files.remove(DB);
            files.remove(MARK);
        },
        Refused(&["is damaged (it is gone, and its log is not)"]),
    ),
    ("the mark is garbage", |files, _| of(files, MARK).fill(b'x'), Refused(&["high-water.json is damaged"])),
];

const ENDED: &[(&str, Damage, Outcome)] = &[
    ("nothing", |_, _| {}, Serves),
    ("another's index", |files, base| drop(files.insert(SHM.into(), base.foreign[SHM].clone())), Serves),
    ("a torn page", |files, _| of(files, DB)[3 * PAGE..3 * PAGE + PAGE / 2].fill(0), Refused(&["is damaged"])),
    ("a page of garbage", |files, _| of(files, DB)[5 * PAGE..6 * PAGE].fill(0xa5), Refused(&["is damaged"])),
    ("half of the database", |files, _| halve(of(files, DB)), Refused(&["is damaged"])),
    ("the database is empty", |files, _| of(files, DB).clear(), Refused(&["there is no database"])),
    ("no database", |files, _| of(files, DB).fill(b'x'), Refused(&["is not a database"])),
    (
        "another's database",
        |files, base| {
            *of(files, DB) = base.foreign[DB].clone();
            files.insert(WAL.into(), base.foreign[WAL].clone());
        },
        Refused(&["says that it should hold"]),
    ),
];

fn halve(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() / 2 / PAGE * PAGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_start_serves_all_that_was_answered_or_says_what_is_wrong() {
    let _turn = turn().await;
    let base = Base::make().await;
    assert!(base.killed[WAL].len() > WAL_HEAD + 4 * FRAME, "the log holds commits");
    assert!(base.ended.get(WAL).is_none_or(Vec::is_empty), "the log was moved");
    let killed = KILLED.iter().map(|case| ("killed", &base.killed, case));
    let ended = ENDED.iter().map(|case| ("ended", &base.ended, case));
    for (how, files, (what, damage, outcome)) in killed.chain(ended) {
        let mut files = files.clone();
        damage(&mut files, &base);
        let (dir, what) = (Dir::new(), format!("{how}: {what}"));
        eprintln!("{what}"); // shown with a failure
        write(&dir, &files);
        match outcome {
            Serves => serves(&dir, &base, &what).await,
            Shut => shut(&dir, &what).await,
            Refused(words) => refused(&dir, &files, words, &what).await,
        }
    }
}

async fn serves(dir: &Dir, base: &Base, what: &str) {
    let at = lasting_address();
    let server = Server::run(serving(dir, at)).await;
    let status = |answer: crate::kept::Answer| (answer.status, answer.code().to_owned());
    let me = status(once(at, "GET", "/v1/me", Some(&base.kept.access), None).await);
    assert_eq!(me.0, 200, "{what}: {me:?}");
    let gone = status(once(at, "GET", "/v1/me", Some(&base.gone.access), None).await);
    assert_eq!(gone, (401, "token_revoked".into()), "{what}");
    insist(at, "DELETE", "/v1/me/sessions/current", Some(&base.kept.access), None).await.must(200);
    drop(server);
}

async fn shut(dir: &Dir, what: &str) {
    let at = lasting_address();
    let server = Server::run(serving(dir, at)).await;
    let ready = once(at, "GET", "/readyz", None, None).await;
    assert_eq!(ready.status, 503, "{what}: served, though commits are missing: {}", ready.body);
    assert!(server.process.log().contains("ROLLED BACK"), "{what}: {}", server.process.log());
    // The operator's tool says the same.
    let path = dir.path("data").join("high-water.rolled-back.json");
    super::acts::until("the state", async || path.exists()).await;
    let looked = run(&dir.0, &["doctor", "--data-dir", "data"]);
    assert!(looked.code == 4 && looked.out.contains("older than what it has said"), "{what}: {looked:#?}");
    drop(server);
}

async fn refused(dir: &Dir, before: &Files, words: &[&str], what: &str) {
    let ran = run_to_its_end(dir).await;
    let said = words.iter().any(|words| ran.err.contains(words));
    assert!(ran.code == 2 && said, "{what}: not 2 {words:?}: {ran:#?}");
    // Whoever comes to mend it finds what was there.
    let after = read(dir);
    for name in [DB, WAL, MARK] {
        // No log and an empty one are the same.
        let holds = |files: &Files| files.get(name).filter(|bytes| name != WAL || !bytes.is_empty()).cloned();
        assert!(holds(before) == holds(&after), "{what}: {name} was changed");
    }
}

/// A start that should end by itself.
async fn run_to_its_end(dir: &Dir) -> Ran {
    let mut process = Running::start(serving(dir, lasting_address()));
    let log = process.clone_log();
    let serves = super::acts::until("an end, or a start", async || log().contains("\"message\":\"serving\""));
    let code = tokio::select! {
        code = process.ended() => code.unwrap_or(-1),
        () = serves => -1,
    };
    tokio::time::sleep(Duration::from_millis(20)).await; // the last of its words
    Ran { code, out: String::new(), err: log() }
}
