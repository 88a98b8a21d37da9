//! `portcullis feed relay`: follows the feed once, and serves it to many verifiers.
use super::remote;
use super::serve::{Signals, block_on, raise_descriptors};
use crate::cli::Reach;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::look::RelayArgs;
use crate::settings::address;
use crate::{telemetry, tls};
use portcullis_http::{Limits, Listener, Traffic, serve_any};
use portcullis_relay::{Hub, Settings, limit_of_client, ops_router, router};
use portcullis_tower::Config;
use portcullis_wire::time;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Connections that a verifier may have open at once, on the average, and some for operators.
const CONNECTIONS_EACH: usize = 3;
const CONNECTIONS_MORE: usize = 256;

/// Serves until a signal ends it.
pub fn run(args: &RelayArgs, reach: &Reach) -> Outcome {
    let (config, settings) = (config(args, reach)?, settings(args)?);
    let place =
        |flag: &str, given: &str| address(given).map_err(|why| Failure::config(format!("{flag} {given:?}: {why}")));
    let listen = place("--listen", &args.listen)?;
    let ops = args.ops_listen.as_deref().map(|given| place("--ops-listen", given)).transpose()?;
    let files = args.tls_cert.clone().zip(args.tls_key.clone()).map(|(cert, key)| tls::Files { cert, key });
    telemetry::start(args.log_format == "json", "info");
    raise_descriptors();
    block_on(async move {
        let mut signals = Signals::listen()?;
        serve(config, settings, (listen, ops), files, &mut signals).await
    })
}

async fn serve(
    config: Config,
    settings: Settings,
    (listen, ops): (SocketAddr, Option<SocketAddr>),
    files: Option<tls::Files>,
    signals: &mut Signals,
) -> Outcome {
    let traffic = Arc::new(Traffic::default());
    let certificate = match files {
        Some(files) => Some((files.clone(), files.load().map_err(Failure::config)?.begin(&traffic))),
        None => None,
    };
    let (listener, address) = bind("--listen", listen).await?;
    let ops = match ops {
        Some(at) => Some(bind("--ops-listen", at).await?),
        None => None,
    };
    if certificate.is_none() && !address.ip().is_loopback() {
        tracing::warn!(%address, "served without TLS: whoever is on the way reads secrets and can forge keys. Give --tls-cert and --tls-key, or let a proxy on this machine speak TLS");
    }
    let hub = Hub::start(config, &settings).map_err(Failure::config)?;
    let mut background = JoinSet::new();
    let listener = match certificate {
        Some((files, (tls, digest, expires))) => {
            background.spawn(files.follow(tls.clone(), digest, expires, traffic.clone()));
            Listener::Tls(listener, tls)
        }
        None => Listener::Tcp(listener),
    };
    let connections = settings.max_verifiers * CONNECTIONS_EACH + CONNECTIONS_MORE;
    let limits = Limits { connections, ..Limits::default() };
    tracing::info!(%address, "relaying; /readyz answers 200 once it is fresh");
    let goodbye = {
        let hub = hub.clone();
        move || hub.close()
    };
    let told = async {
        let name = signals.next().await;
        tracing::info!(signal = name, "ending: streams first, then the requests in flight");
    };
    let router = router(hub.clone(), ops.is_none());
    if let Some((ops, address)) = ops {
        tracing::info!(%address, "for operators: /healthz, /readyz, /metrics");
        let (router, traffic) = (ops_router(hub), traffic.clone());
        let never = std::future::pending();
        background.spawn(serve_any(Listener::Tcp(ops), router, || (), Limits::default(), traffic, never));
    }
    serve_any(listener, router, goodbye, limits, traffic, told).await;
    background.shutdown().await;
    tracing::info!("ended");
    Ok(Exit::Done)
}

async fn bind(flag: &str, at: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let cannot = |error| Failure::config(format!("{flag} {at}: cannot listen there: {error}"));
    let listener = TcpListener::bind(at).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

fn settings(args: &RelayArgs) -> Result<Settings, Failure> {
    let wrong = || {
        let given = &args.stream_grace;
        Failure::config(format!("--stream-grace {given:?}: a duration needs a unit, such as 2s"))
    };
    let stream_grace_ms = time::parse_span(&args.stream_grace).filter(|ms| *ms >= 0).ok_or_else(wrong)?;
    let max_verifiers = args.max_verifiers as usize;
    let max_verifiers_per_client =
        args.max_verifiers_per_client.map_or(limit_of_client(max_verifiers), |given| given as usize);
    Ok(Settings { max_verifiers, max_verifiers_per_client, stream_grace_ms })
}

fn config(args: &RelayArgs, reach: &Reach) -> Result<Config, Failure> {
    let others = [
        ("--server", reach.server.is_some()),
        ("--token", reach.token.is_some()),
        ("--data-dir", reach.data_dir.is_some()),
        ("--config", reach.config.is_some()),
        ("--json", reach.json),
    ];
    if let Some((flag, _)) = others.into_iter().find(|(_, given)| *given) {
        let message = format!("{flag} is for commands that operate a server; a relay follows --issuer, or --feed-url");
        return Err(Failure::config(message));
    }
    let mut config = remote::follow(&args.follow, &args.follow.issuer, reach.ca_file.as_deref())?.name(&args.name);
    if let Some(log) = &args.log {
        let log = log.parse().map_err(|_| {
            Failure::config(format!("--log {log:?}: no id of a log; the feed's `hello` has it as `log`"))
        })?;
        config = config.log(log);
    }
    Ok(config)
}
