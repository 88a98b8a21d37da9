//! Waking: who waits for the log is told when it may have grown.
//!
//! Each commit that writes entries notifies `portcullis_log`, and the notice goes out with the commit. So does each row of a node,
//! with a word that tells the two apart. It only wakes: notices
//! are lost while the connection is down, so the number also moves when there is a connection again, and whoever waits reads
//! the log from where it was. The log is the truth.
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use std::time::Duration;
use tokio::sync::watch::Sender;

const CHANNEL: &str = "portcullis_log";
/// How long until the next try to connect.
const PAUSE: Duration = Duration::from_millis(500);

/// Moves when there may be something new.
#[derive(Debug)]
pub(crate) struct Woken {
    /// In the log.
    pub(crate) log: Sender<u64>,
    /// Among the nodes' rows.
    pub(crate) nodes: Sender<u64>,
}

/// Until it is aborted.
pub(crate) async fn follow(options: PgConnectOptions, woken: Woken) {
    loop {
        if let Err(error) = listen(&options, &woken).await {
            tracing::warn!(error = %crate::cells::Fault::Sqlx(error), "no notices from PostgreSQL; trying again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the connection is lost.
async fn listen(options: &PgConnectOptions, woken: &Woken) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    // The next connection is made by `follow`, so that every one begins with a wake.
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    // Whatever was said meanwhile was not heard.
    woken.log.send_modify(|wakes| *wakes += 1);
    woken.nodes.send_modify(|wakes| *wakes += 1);
    while let Some(notice) = listener.try_recv().await? {
        let of = if notice.payload() == "nodes" { &woken.nodes } else { &woken.log };
        of.send_modify(|wakes| *wakes += 1);
    }
    Ok(())
}
