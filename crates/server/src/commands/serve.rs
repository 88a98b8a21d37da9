//! `portcullis serve`: the server.
use super::node::Node;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::settings::Settings;
use crate::settings::sources::Flags;
use crate::{files, telemetry};
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Threads for what blocks (name look-ups, files): little of it is done, so little memory goes into it.
const BLOCKING_THREADS: usize = 8;

/// Serves until a signal ends it.
pub fn run(flags: &Flags) -> Outcome {
    let settings = Settings::load(flags).map_err(Failure::config)?;
    telemetry::start(settings.log_json, &settings.log_level);
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    files::keep_private();
    raise_descriptors();
    block_on(until_told(settings))
}

/// Runs `future` on as many threads as there are cores.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("no runtime: {error}")))?;
    let result = runtime.block_on(future);
    // What is still there has been told to end; nobody waits for it.
    runtime.shutdown_background();
    result
}

async fn until_told(settings: Settings) -> Outcome {
    let mut signals = Signals::listen()?;
    // It means "read your files again" (see `tls`), and never the end, also where there is nothing to read again.
    let _hangup = signal(SignalKind::hangup());
    let mut node = Node::start(&settings).await?;
    tracing::info!(
        address = %node.address, issuer = %node.issuer, database = %settings.database_name(),
        version = env!("CARGO_PKG_VERSION"), "serving"
    );
    let name = tokio::select! {
        name = signals.next() => name,
        failure = node.broke() => return Err(failure),
    };
    tracing::info!(signal = name, "ending: feeds first, then the requests in flight");
    tokio::select! {
        () = node.stop() => {}
        name = signals.next() => {
            tracing::warn!(signal = name, "ending at once");
            return Ok(Exit::Refused);
        }
    }
    tracing::info!("ended");
    Ok(Exit::Done)
}

/// The signals that end a server.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they end nothing by themselves.
    pub fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::refused(format!("signals cannot be received: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next one's name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Verifiers and clients keep their connections open, and the usual soft limit is 1,024: take what the hard limit gives.
pub fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit); // with the soft limit there are fewer connections, nothing worse
    }
}
