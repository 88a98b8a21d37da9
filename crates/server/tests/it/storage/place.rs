//! Places where storage can be made to fail: a small file system of one's own, and system calls that return errors.
use crate::support::{ADMIN, Dir, ISSUER, Running, Server, portcullis};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NEEDS: &str = "these tests need a mount namespace of their own: `unshare`, `nsenter` and `mount` (util-linux), and a \
                     system that lets this user have one (root, or user.max_user_namespaces above 0 and no policy against it)";

/// A file system in memory, mounted at `DIR/data` in a namespace that a shell holds open: it outlives the servers in it.
pub struct Volume {
    pub dir: Dir,
    holder: Running,
}

impl Volume {
    pub async fn new(size: &str) -> Self {
        let dir = Dir::new();
        let at = dir.path("data");
        fs::create_dir(&at).unwrap();
        let mount = "mount -t tmpfs -o size=$1,mode=700 portcullis \"$0\" && echo mounted && exec cat";
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", mount]).arg(&at).arg(size).stdin(Stdio::piped());
        for program in ["unshare", "nsenter", "mount"] {
            assert!(Command::new(program).arg("-V").output().is_ok(), "no `{program}`: {NEEDS}");
        }
        let mut holder = Running::start(command);
        let out = holder.out.clone();
        let mounted = async {
            while !out.lock().unwrap().contains("mounted") {
                assert!(!holder.has_ended(), "{NEEDS}: {}", holder.log());
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, mounted).await.expect(NEEDS);
        Self { dir, holder }
    }

    /// A command as it runs inside.
    pub fn inside(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["-t", &self.holder.id().as_raw_nonzero().to_string(), "-U", "-m", "--preserve-credentials"]);
        // A directory that was entered before is one of the namespace outside.
        entered.args(["--", "sh", "-c", "cd \"$0\" && exec \"$@\""]).arg(&self.dir.0);
        entered.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null()).env_clear();
        for (name, value) in command.get_envs() {
            entered.env(name, value.unwrap_or_default());
        }
        entered.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        entered
    }

    /// A server in it.
    pub async fn serve(&self, at: SocketAddr) -> Server {
        Server::run(self.inside(&serving(&self.dir, at))).await
    }

    /// What `mount` makes of it: `ro`, `rw`.
    pub fn remount(&self, how: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{how}")]).arg(self.dir.path("data"));
        let ran = self.inside(&mount).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    /// A file in it, as it is reached from outside.
    pub fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id().as_raw_nonzero()));
        root.join(self.dir.path("data").strip_prefix("/").unwrap()).join(name)
    }

    /// Takes all the space that is left.
    pub fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.path("filler")).unwrap();
        for bytes in [64 << 10, 4 << 10, 1] {
            loop {
                match filler.write(&vec![0; bytes]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.path("filler")).unwrap();
    }
}

/// The command for a server with data in `DIR/data`.
pub fn serving(dir: &Dir, at: SocketAddr) -> Command {
    let at = at.to_string();
    let args = ["serve", "--listen", &at, "--issuer", ISSUER, "--data-dir", "data", "--log-format", "json"];
    let mut command = portcullis(&dir.0, &args);
    command.args(["--bound", "2s", "--access-ttl", "30m"]);
    command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
    command
}

const STRACE: &str = "these tests need `strace`, and the right to trace a process of this user (`cargo xtask test` \
                      installs it where it can)";

/// Says what is missing where it is.
pub fn needs_strace() {
    assert!(Command::new("strace").arg("-V").output().is_ok(), "{STRACE}");
}

/// The same command with system calls that fail from its start, as `strace -e inject=` takes it.
pub fn injected(command: &Command, inject: &str) -> Command {
    needs_strace();
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={inject}"), "--"]);
    traced.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null()).env_clear();
    for (name, value) in command.get_envs() {
        traced.env(name, value.unwrap_or_default());
    }
    traced.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    if let Some(folder) = command.get_current_dir() {
        traced.current_dir(folder);
    }
    traced
}

/// System calls of a running server that fail until the value is dropped.
pub struct Injected(Running);

impl Injected {
    pub async fn into(server: &Server, inject: &str) -> Self {
        Self::written(server, inject, Path::new("/dev/null")).await
    }

    /// With a line in this file for each.
    pub async fn written(server: &Server, inject: &str, to: &Path) -> Self {
        let mut command = Command::new("strace");
        let calls = inject.split(':').next().unwrap();
        command.args(["-f", "-y", "-e", &format!("trace={calls}"), "-e", &format!("inject={inject}"), "-o"]).arg(to);
        command.args(["-p", &server.process.id().as_raw_nonzero().to_string()]).stdin(Stdio::null());
        needs_strace();
        let mut strace = Running::start(command);
        let attached = async {
            // One line for all threads that there are.
            while !strace.log().contains("attached") {
                assert!(!strace.has_ended(), "{STRACE}: {}", strace.log());
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, attached).await.expect(STRACE);
        Self(strace)
    }

    /// From now on they work again.
    pub async fn end(mut self) {
        self.0.signal(rustix::process::Signal::TERM);
        self.0.ended().await;
    }
}
