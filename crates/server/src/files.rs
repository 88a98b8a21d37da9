//! What stands in the data directory: the database, the master key, the admin socket. Nothing here is ever overwritten.
use crate::cli::exit::Failure;
use portcullis_app::keys::MasterKey;
use portcullis_wire::SecretString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// The longest path of a socket, in bytes (`sockaddr_un` has 108, one of them ends the text).
const MAX_SOCKET_PATH: usize = 107;

/// Everything that this process makes from now on is for its own user alone: database, key and socket are made private
/// instead of being made so afterwards.
pub fn keep_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Makes the data directory when it is not there, for its owner alone; otherwise sees to it that it is one.
pub fn data_dir(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Failure::config(format!("the data directory {} cannot be made: {error}", path.display())))?;
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            if meta.permissions().mode() & 0o077 != 0 {
                tracing::warn!(path = %path.display(), "the data directory is open to other users; chmod 700 closes it");
            }
            Ok(())
        }
        Ok(_) => Err(Failure::config(format!("{} is no directory", path.display()))),
        Err(error) => Err(Failure::config(format!("the data directory {} cannot be read: {error}", path.display()))),
    }
}

/// The master key: the one given, else the one in the data directory, which is made on the very first start. When there is a
/// database but no key, a new key would only make the loss final, so the start is refused.
pub fn master_key(given: Option<&MasterKey>, data_dir: &Path, database: &Path) -> Result<MasterKey, Failure> {
    if let Some(key) = given {
        return Ok(key.clone());
    }
    let path = data_dir.join("master.key");
    if let Some(key) = read_key(&path)? {
        return Ok(key);
    }
    if std::fs::metadata(database).is_ok_and(|meta| meta.len() > 0) {
        return Err(Failure::config(format!(
            "the database {} exists, but the master key that opens its keys does not: {} is missing.\n\
             Put that file back, or give its content as master_key (PORTCULLIS_MASTER_KEY_FILE).",
            database.display(),
            path.display()
        )));
    }
    let wrong = |error: std::io::Error| Failure::config(format!("{} cannot be made: {error}", path.display()));
    match write_new(&path, MasterKey::generate().to_text().expose()) {
        Ok(()) => tracing::info!(path = %path.display(), "made a master key; keep a copy apart from the database"),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {} // another start was quicker: its key counts
        Err(error) => return Err(wrong(error)),
    }
    read_key(&path)?.ok_or_else(|| Failure::config(format!("{} vanished", path.display())))
}

/// The key in a file, if there is one.
pub fn read_key(path: &Path) -> Result<Option<MasterKey>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => SecretString::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::config(format!("the master key {} cannot be read: {error}", path.display())));
        }
    };
    if std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "the master key is open to other users; chmod 600 closes it");
    }
    let key = MasterKey::parse(&text);
    key.map(Some).ok_or_else(|| Failure::config(format!("{} does not hold 32 bytes in base64", path.display())))
}

/// Writes a file that was not there before, whole and on disk before it has its name: a crash leaves the file or none.
pub fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&draft); // of an earlier process with our number
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::hard_link(&draft, path)?; // refuses when the name is taken
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    let _ = std::fs::remove_file(&draft);
    written
}

/// Listens on the admin socket. Only to be called while the database's lock is held: whoever left the socket there is gone.
pub fn admin_listener(path: &Path) -> Result<UnixListener, Failure> {
    let wrong =
        |error: std::io::Error| Failure::config(format!("the admin socket {} cannot be made: {error}", path.display()));
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path).map_err(wrong)?,
        Ok(_) => {
            let message =
                format!("{} is in the way of the admin socket and is no socket; take it away", path.display());
            return Err(Failure::config(message));
        }
        Err(_) => {}
    }
    let short = ShortPath::of(path).map_err(wrong)?;
    let listener = UnixListener::bind(&short.path).map_err(wrong)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(wrong)?;
    Ok(listener)
}

/// A name of a socket that fits into a socket address: in a deep directory, by way of the open directory.
#[derive(Debug)]
pub struct ShortPath {
    /// The name to bind or connect to, while this value lives.
    pub path: PathBuf,
    _dir: Option<File>,
}

impl ShortPath {
    /// A usable name of `path`.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Self { path: path.to_path_buf(), _dir: None });
        }
        let dir = File::open(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.file_name().unwrap_or_default();
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
        Ok(Self { path, _dir: Some(dir) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("portcullis-files-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn the_key_is_made_once_and_never_replaced() {
        let dir = dir("key");
        data_dir(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let database = dir.join("portcullis.db");
        let first = master_key(None, &dir, &database).unwrap();
        std::fs::write(&database, "something").unwrap();
        let again = master_key(None, &dir, &database).unwrap();
        assert_eq!(first.to_text().expose(), again.to_text().expose());
        let path = dir.join("master.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_new(&path, "other").is_err());
        std::fs::write(&path, "garbage").unwrap();
        assert!(master_key(None, &dir, &database).unwrap_err().message.contains("32 bytes"));
        std::fs::remove_file(&path).unwrap();
        assert!(master_key(None, &dir, &database).unwrap_err().message.contains("is missing"));
        assert!(!path.exists());
        assert!(master_key(Some(&first), &dir, &database).is_ok());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let dir = dir("socket").join("d".repeat(120));
        data_dir(&dir).unwrap();
        let path = dir.join("admin.sock");
        drop(admin_listener(&path).unwrap());
        let listener = admin_listener(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let short = ShortPath::of(&path).unwrap();
        let (there, here) = tokio::join!(listener.accept(), tokio::net::UnixStream::connect(&short.path));
        assert!(there.is_ok() && here.is_ok());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(admin_listener(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }
}
