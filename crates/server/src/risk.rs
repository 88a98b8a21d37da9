//! The files of the rules of risk: the policy and the database of places. Read when the server starts, and again when they change.
//!
//! A policy that is wrong keeps the server from starting; one that is wrong later changes nothing but the log. A database of places
//! is a help and no more: without it, or with a broken one, the server works and knows no places. Files are looked at every
//! [`LOOK`], and at once on SIGHUP, and taken when their bytes differ. The database of places is large: it is read when it is another
//! file, or of another size or time, than the one that was read before, and on SIGHUP.
use maxminddb::Reader;
use portcullis_app::App;
use portcullis_app::risk::Places;
use portcullis_domain::risk::{Judge, Place, Spot};
use portcullis_rules::{MAX_FILE, Policy};
use portcullis_wire::Digest;
use serde::Deserialize;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(30);
/// The largest database of places; those that are sold have some hundred MB.
const MAX_PLACES: u64 = 1 << 30;

/// Which rules are asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rules {
    /// None.
    Off,
    /// Those that came with the program.
    #[default]
    BuiltIn,
    /// Those of this file.
    File(PathBuf),
}

impl Rules {
    /// From the text of the setting.
    pub fn of(text: &str) -> Self {
        match text {
            "off" => Self::Off,
            "built-in" => Self::BuiltIn,
            path => Self::File(path.into()),
        }
    }

    /// Reads and checks them.
    ///
    /// # Errors
    /// The file cannot be read, or what is wrong in it, line by line.
    pub fn load(&self) -> Result<Option<Policy>, String> {
        Ok(self.read()?.map(|(policy, _)| policy))
    }

    fn read(&self) -> Result<Option<(Policy, Digest)>, String> {
        match self {
            Self::Off => Ok(None),
            Self::BuiltIn => Ok(Some((Policy::built_in(), Digest::of(portcullis_rules::DEFAULT.as_bytes())))),
            Self::File(path) => {
                let said = |why: String| format!("{}: {why}", path.display());
                let bytes = read(path, MAX_FILE as u64).map_err(said)?;
                let text = std::str::from_utf8(&bytes).map_err(|error| said(error.to_string()))?;
                let policy = Policy::parse(text)
                    .map_err(|faults| said(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
                Ok(Some((policy, Digest::of(&bytes))))
            }
        }
    }
}

/// Both files.
#[derive(Debug, Clone)]
pub struct Files {
    /// The policy.
    pub rules: Rules,
    /// The database of places.
    pub places: Option<PathBuf>,
}

/// What is in force, by the digests of the files.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct InForce {
    rules: Option<Digest>,
    places: Option<Digest>,
    /// The database of places that was read last, whatever came of it.
    read: Option<Mark>,
}

/// What tells a file from the one that was there before, without reading it.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Mark {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Of its entry: also what sets `modified` back changes it.
    changed: (i64, i64),
}

impl Mark {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl Files {
    /// Puts both in force.
    ///
    /// # Errors
    /// What is wrong with the policy.
    pub fn begin(self, app: &App, tasks: &mut tokio::task::JoinSet<()>) -> Result<(), String> {
        let mut in_force = InForce::default();
        if let Some((policy, digest)) = self.rules.read()? {
            tracing::info!(version = policy.version(), "rules of risk are in force");
            warn(&policy);
            app.set_judge(Some(Box::new(policy)));
            in_force.rules = Some(digest);
        }
        self.look_at_places(app, &mut in_force, false);
        if self.places.is_some() || matches!(self.rules, Rules::File(_)) {
            tasks.spawn(self.follow(app.clone(), in_force));
        }
        Ok(())
    }

    /// Puts what is new in the place of what is in force, for as long as the server runs.
    async fn follow(self, app: App, mut in_force: InForce) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            let told = match &mut hangup {
                Some(hangup) => tokio::time::timeout(LOOK, hangup.recv()).await.is_ok(),
                None => {
                    tokio::time::sleep(LOOK).await;
                    false
                }
            };
            let (files, of) = (self.clone(), app.clone());
            let looked = tokio::task::spawn_blocking(move || {
                files.look_at_rules(&of, &mut in_force);
                files.look_at_places(&of, &mut in_force, told);
                in_force
            });
            match looked.await {
                Ok(now) => in_force = now,
                Err(error) => tracing::error!(%error, "the files of the rules of risk could not be looked at"),
            }
        }
    }

    fn look_at_rules(&self, app: &App, in_force: &mut InForce) {
        match self.rules.read() {
            Ok(Some((policy, digest))) if in_force.rules != Some(digest) => {
                tracing::info!(version = policy.version(), "new rules of risk are in force");
                warn(&policy);
                app.set_judge(Some(Box::new(policy)));
                in_force.rules = Some(digest);
            }
            Ok(_) => {}
            Err(why) => tracing::error!(%why, "the rules of risk cannot be used; the old ones stay in force"),
        }
    }

    fn look_at_places(&self, app: &App, in_force: &mut InForce, told: bool) {
        let Some(path) = &self.places else { return };
        let known = in_force.places.is_some();
        let bytes = match read_anew(path, MAX_PLACES, in_force.read.filter(|_| !told)) {
            Ok(Some((bytes, mark))) => {
                in_force.read = Some(mark);
                bytes
            }
            Ok(None) => return,
            Err(why) => {
                in_force.read = None;
                let file = path.display();
                match known {
                    true => tracing::error!(%file, %why, "geo_file cannot be read; the old one stays in force"),
                    false => tracing::warn!(%file, %why, "geo_file cannot be read: places are not known"),
                }
                return;
            }
        };
        let digest = Digest::of(&bytes);
        if in_force.places == Some(digest) {
            if told {
                tracing::info!("geo_file is as it was");
            }
            return;
        }
        match Geo::of(bytes) {
            Ok(geo) => {
                tracing::info!(file = %path.display(), kind = geo.0.metadata().database_type, "places are known from a file");
                app.set_places(Some(Box::new(geo)));
                in_force.places = Some(digest);
            }
            Err(why) if known => tracing::error!(%why, "geo_file cannot be used; the old one stays in force"),
            Err(why) => tracing::warn!(%why, "geo_file cannot be used: places are not known"),
        }
    }
}

/// Says what may not be meant.
fn warn(policy: &Policy) {
    for warning in policy.warnings() {
        tracing::warn!(%warning, "rules of risk");
    }
}

/// Not more than `most` bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    read_anew(path, most, None).map(|read| read.map(|(bytes, _)| bytes).unwrap_or_default())
}

/// The same, with the file's mark; `None` when it is the one that was read `before`.
fn read_anew(path: &Path, most: u64, before: Option<Mark>) -> Result<Option<(Vec<u8>, Mark)>, String> {
    let wrong = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(wrong)?;
    // Before it is read: who writes to it meanwhile makes another one of it.
    let mark = Mark::of(&file.metadata().map_err(wrong)?);
    if before == Some(mark) {
        return Ok(None);
    }
    file.take(most + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > most { Err(format!("is larger than {most} bytes")) } else { Ok(Some((bytes, mark))) }
}

/// A database of places in MaxMind's format, in memory.
struct Geo(Reader<Vec<u8>>);

/// What is read of a row, whichever of the usual databases it is of.
#[derive(Deserialize, Default)]
struct Row<'a> {
    #[serde(borrow, default)]
    country: Country<'a>,
    #[serde(default)]
    location: Location,
    #[serde(default)]
    autonomous_system_number: Option<u32>,
}

#[derive(Deserialize, Default)]
struct Country<'a> {
    #[serde(borrow, default)]
    iso_code: Option<&'a str>,
}

#[derive(Deserialize, Default)]
struct Location {
    #[serde(default)]
    latitude: Option<f64>,
    #[serde(default)]
    longitude: Option<f64>,
    #[serde(default)]
    accuracy_radius: Option<u16>,
}

/// The radius of a spot whose own is not told: a small country's.
const COARSE_KM: u16 = 200;

impl Geo {
    fn of(bytes: Vec<u8>) -> Result<Self, String> {
        let reader = Reader::from_source(bytes).map_err(|error| error.to_string())?;
        let geo = Self(reader);
        // A file that was cut off is told here and not at the first sign-in.
        for ip in ["192.0.2.1", "8.8.8.8", "2001:db8::1"] {
            let ip: IpAddr = ip.parse().map_err(|_| "no address".to_owned())?;
            if ip.is_ipv6() && geo.0.metadata().ip_version == 4 {
                continue;
            }
            geo.row(ip).map_err(|error| error.to_string())?;
        }
        Ok(geo)
    }

    fn row(&self, ip: IpAddr) -> Result<Row<'_>, maxminddb::MaxMindDbError> {
        Ok(self.0.lookup(ip)?.decode::<Row<'_>>()?.unwrap_or_default())
    }
}

impl Places for Geo {
    fn of(&self, ip: IpAddr) -> Place {
        // What does not read is not known.
        let Ok(row) = self.row(ip.to_canonical()) else { return Place::default() };
        let letters = row.country.iso_code.and_then(|code| <[u8; 2]>::try_from(code.as_bytes()).ok());
        let Location { latitude, longitude, accuracy_radius } = row.location;
        let micro =
            |degrees: f64, most: f64| (degrees.is_finite() && degrees.abs() <= most).then_some((degrees * 1e6) as i32);
        let spot = latitude.and_then(|lat| micro(lat, 90.0)).zip(longitude.and_then(|lon| micro(lon, 180.0)));
        Place {
            country: letters.filter(|code| code.iter().all(u8::is_ascii_uppercase)),
            asn: row.autonomous_system_number,
            spot: spot.map(|(lat_udeg, lon_udeg)| Spot {
                lat_udeg,
                lon_udeg,
                radius_km: accuracy_radius.unwrap_or(COARSE_KM),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A file of hundreds of megabytes is not read twice a minute for nothing, and none that is another one is missed.
    #[test]
    fn a_file_is_read_anew_when_it_is_another_one() {
        let dir = portcullis_testkit::TempDir::new("marks");
        let (path, beside) = (dir.path().join("places"), dir.path().join("beside"));
        let anew = |before| read_anew(&path, 100, before).unwrap();
        fs::write(&path, "one").unwrap();
        let (bytes, mark) = anew(None).unwrap();
        assert_eq!(bytes, b"one");
        assert!(anew(Some(mark)).is_none(), "nothing has changed");
        // Another file of the same length and time in its place.
        fs::write(&beside, "two").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        File::options().write(true).open(&beside).unwrap().set_modified(modified).unwrap();
        fs::rename(&beside, &path).unwrap();
        let (bytes, mark) = anew(Some(mark)).unwrap();
        assert_eq!(bytes, b"two");
        // The same one, written to.
        fs::write(&path, "longer").unwrap();
        let (bytes, mark) = anew(Some(mark)).unwrap();
        assert_eq!(bytes, b"longer");
        assert!(anew(Some(mark)).is_none());
        assert!(read_anew(&path, 3, None).unwrap_err().contains("larger"));
        fs::remove_file(&path).unwrap();
        assert!(read_anew(&path, 100, Some(mark)).is_err(), "a file that is gone is no file that has not changed");
    }
}
