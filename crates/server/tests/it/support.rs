//! The binary as its users meet it: processes, exit codes, what they print, and HTTP to what they serve.
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long anything may take before the test is given up; far more than it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An issuer that stays the same over restarts on other ports.
pub const ISSUER: &str = "http://localhost:7400";

/// A directory of one test, removed at its end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("portcullis-it-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binary in this directory, with an environment of its own and password hashing that is cheap.
pub fn portcullis(dir: &Path, args: &[&str]) -> Command {
    portcullis_at(Path::new(env!("CARGO_BIN_EXE_portcullis")), dir, args)
}

/// As [`portcullis`], for a copy of the binary.
pub fn portcullis_at(binary: &Path, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).current_dir(dir).env_clear().stdin(Stdio::null());
    command.env("TMPDIR", dir).env("PORTCULLIS_ARGON2_MEMORY", "64KiB").env("PORTCULLIS_ARGON2_PASSES", "1");
    command.env("PORTCULLIS_FAILED_SIGN_IN_STEP", "0s");
    command
}

/// What a finished command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
    /// It must have ended with this code and said this.
    #[track_caller]
    pub fn must(self, code: i32, said: &str) -> Self {
        assert!(
            self.code == code && (self.out.contains(said) || self.err.contains(said)),
            "not {code} {said:?}: {self:#?}"
        );
        self
    }
}

/// Runs a command to its end.
pub fn run(dir: &Path, args: &[&str]) -> Ran {
    portcullis(dir, args).output().unwrap().into()
}

/// As [`run`], with this on standard input.
pub fn run_with_input(dir: &Path, args: &[&str], input: &str) -> Ran {
    use std::io::Write as _;
    let mut command = portcullis(dir, args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// A process that goes on until it is ended. Killed with the value.
pub struct Running {
    child: Child,
    /// What it logged so far.
    pub log: Arc<Mutex<String>>,
    /// What it printed so far.
    pub out: Arc<Mutex<String>>,
    /// Who reads both.
    readers: [std::thread::JoinHandle<()>; 2],
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (log, logged) = collect(child.stderr.take().unwrap());
        let (out, printed) = collect(child.stdout.take().unwrap());
        Self { child, log, out, readers: [logged, printed] }
    }

    pub fn id(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.id(), signal).unwrap();
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// As [`log`](Self::log), apart from the process.
    pub fn clone_log(&self) -> impl Fn() -> String + use<> {
        let log = self.log.clone();
        move || log.lock().unwrap().clone()
    }

    /// Waits until a line of `text` holds all of `marks`; the line.
    pub async fn line(&mut self, text: &Arc<Mutex<String>>, marks: &[&str]) -> String {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let so_far = text.lock().unwrap().clone();
                let complete = so_far.rsplit_once('\n').map_or("", |(lines, _)| lines);
                if let Some(line) = complete.lines().find(|line| marks.iter().all(|mark| line.contains(mark))) {
                    return line.to_owned();
                }
                if let Some(status) = self.child.try_wait().unwrap() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    panic!("it ended with {status}: {}", self.log());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("no line with {marks:?}: {}", self.log()))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it ends by itself, and until what it said was read; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let code = ended.await.unwrap_or_else(|_| panic!("it did not end: {}", self.log()));
        // A process of its own that goes on holds the pipes open: that one is not waited for.
        for _ in 0..400 {
            if self.readers.iter().all(std::thread::JoinHandle::is_finished) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: impl std::io::Read + Send + 'static) -> (Arc<Mutex<String>>, std::thread::JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let into = text.clone();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    (text, reader)
}

/// A `portcullis serve` on a free port, with data in `DIR/data`.
pub struct Server {
    pub process: Running,
    pub address: SocketAddr,
}

pub const ADMIN: (&str, &str) = ("admin@example.org", "admin-password");

impl Server {
    pub async fn start(dir: &Dir) -> Self {
        Self::start_with(dir, &[]).await
    }

    pub async fn start_with(dir: &Dir, args: &[&str]) -> Self {
        let mut command = Self::command(dir, args);
        command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
        Self::run(command).await
    }

    /// The command that starts it, without a first administrator.
    pub fn command(dir: &Dir, args: &[&str]) -> Command {
        let all = [
            &["serve", "--listen", "127.0.0.1:0", "--issuer", ISSUER, "--data-dir", "data", "--log-format", "json"],
            args,
        ];
        portcullis(&dir.0, &all.concat())
    }

    pub async fn run(command: Command) -> Self {
        let mut process = Running::start(command);
        let log = process.log.clone();
        let line = process.line(&log, &["\"message\":\"serving\""]).await;
        let line: Value = serde_json::from_str(&line).unwrap();
        Self { process, address: line["address"].as_str().unwrap().parse().unwrap() }
    }

    pub async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> (u16, Value) {
        call(self.address, method, path, token, body).await
    }

    /// Signs in; the answer's body.
    pub async fn sign_in(&self, (email, password): (&str, &str)) -> Value {
        let body = serde_json::json!({ "identifier": email, "password": password });
        let (status, body) = self.call("POST", "/v1/sessions", None, Some(body)).await;
        assert_eq!(status, 201, "{body}");
        body
    }

    pub async fn access_token(&self, who: (&str, &str)) -> String {
        self.sign_in(who).await["access_token"].as_str().unwrap().to_owned()
    }

    /// A new client of kind `verifier`: its id and secret.
    pub fn verifier_client(dir: &Dir) -> (String, String) {
        let made = run(&dir.0, &["clients", "create", "a verifier", "--data-dir", "data", "--json"]).must(0, "").json();
        let text = |member: &str| made[member].as_str().unwrap().to_owned();
        (text("client_id"), text("client_secret"))
    }
}

/// One HTTP request on a connection of its own; the status and the body as JSON (`Null` when it is none).
pub async fn call(to: SocketAddr, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> (u16, Value) {
    let exchange = async {
        let mut stream = open(to, method, path, token.map(|token| format!("Bearer {token}")), body).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Sends a request; the answer is still to be read.
pub async fn open(
    to: SocketAddr,
    method: &str,
    path: &str,
    authorization: Option<String>,
    body: Option<Value>,
) -> TcpStream {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    if let Some(authorization) = authorization {
        request += &format!("Authorization: {authorization}\r\n");
    }
    let body = body.map(|body| body.to_string());
    if let Some(body) = &body {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    request += body.as_deref().unwrap_or("");
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads from an open stream until `mark` has come, or it ends; everything read.
pub async fn read_until(stream: &mut TcpStream, mark: &str) -> String {
    read_until_so(stream, |text| text.contains(mark)).await
}

/// Reads from an open stream until what was read is enough, or it ends; everything read.
pub async fn read_until_so(stream: &mut TcpStream, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let read = tokio::time::timeout(PATIENCE, async {
        let mut buffer = [0; 4096];
        while !enough(&text) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
        }
    });
    read.await.unwrap();
    text
}

/// HTTP Basic for a client.
pub fn basic((id, secret): (&str, &str)) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| {
        let n = chunk.iter().fold(0u32, |n, byte| n << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let letter =
            |i: usize| if i <= chunk.len() { alphabet[(n >> (18 - 6 * i)) as usize & 63] as char } else { '=' };
        (0..4).map(letter).collect::<String>()
    };
    format!("Basic {}", format!("{id}:{secret}").as_bytes().chunks(3).map(encode).collect::<String>())
}
