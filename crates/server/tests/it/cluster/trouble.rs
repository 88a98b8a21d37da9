//! What goes wrong, one thing after another. It is counted when it has been seen to happen.
use super::{Dice, World, now};
use crate::kept::insist;
use crate::nodes::Node;
use portcullis_app::real;
use portcullis_testkit::Cluster;
use portcullis_testkit::proxy::{Happened, Proxy, Way};
use rustix::process::Signal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::task::block_in_place;

/// Everything that can go wrong, as it is counted.
pub const KINDS: [&str; 16] = [
    "nodes killed",
    "nodes stopped",
    "nodes cut off from the database",
    "nodes that hear nothing from the database",
    "a slow way to the database",
    "connections to the database reset",
    "verifiers cut off",
    "crashes of the database",
    "verifiers that are not heard",
    "clocks of nodes set",
    "clocks of the database set",
    "standbys that took over",
    "verifiers moved to another node",
    "nodes that the database does not hear",
    "verifiers that hear nothing",
    "a slow way to all nodes",
];

/// How long something that has begun may take to meet anybody.
const MEETS: i64 = 10_000;

/// What can go wrong.
pub struct Place {
    pub nodes: Vec<Node>,
    /// The ways of the verifiers.
    pub ways: Vec<Proxy>,
    /// The primary.
    pub cluster: Cluster,
}

/// The way is like this for so long, and until somebody has met it, and is healed; whether somebody did.
async fn while_it_is(way: &Proxy, bad: Way, length: Duration, met: fn(&Happened) -> &AtomicU64) -> bool {
    let met = || met(&way.happened).load(Ordering::Relaxed);
    let before = met();
    way.set(bad);
    tokio::time::sleep(length).await;
    let until = now() + MEETS;
    while met() == before && now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    way.heal();
    met() > before
}

/// Whether a clock that shows this is so many seconds from the true time, more or less.
fn is_ahead(shows_s: i64, by_s: i64) -> bool {
    (shows_s - real::wall().0 / 1_000 - by_s).abs() <= 3
}

/// What the clock of a node shows: the `Date` of an answer.
async fn shown_by(node: &Node) -> i64 {
    let answer = insist(node.at, "GET", "/healthz", None, None).await;
    let date = httpdate::parse_http_date(answer.headers["date"].to_str().unwrap()).unwrap();
    i64::try_from(date.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// What the kernel says of its process.
fn proc(node: &Node, file: &str) -> String {
    let pid = node.server.as_ref().unwrap().process.id().as_raw_nonzero();
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

/// The words after the name begin with the state.
fn is_stopped(node: &Node) -> bool {
    proc(node, "stat").rsplit(") ").next().unwrap().starts_with('T')
}

fn has_settable_clock(node: &Node) -> bool {
    proc(node, "maps").contains("libfaketime")
}

fn asked(cluster: &Cluster, what: &str) -> String {
    block_in_place(|| cluster.psql("postgres", &format!("SELECT {what}")))
}

/// Something goes wrong for a while, and is healed.
pub async fn trouble(world: &World, place: &mut Place, round: u64, dice: &mut Dice) {
    let kind = KINDS[usize::try_from(round).unwrap() % KINDS.len()];
    if happens(kind, world, place, dice).await {
        world.count(kind);
    }
    place.nodes.iter().for_each(|node| node.way.heal());
    tokio::time::sleep(Duration::from_millis(400)).await;
}

/// Whether it was seen to happen.
async fn happens(kind: &str, world: &World, place: &mut Place, dice: &mut Dice) -> bool {
    let Place { nodes, ways, cluster } = place;
    let which = dice.index(nodes.len());
    let length = Duration::from_millis(800 + dice.below(3_000));
    let node = &mut nodes[which];
    let one = dice.index(ways.len());
    let held: fn(&Happened) -> &AtomicU64 = |happened| &happened.held;
    let (there, back) = (Way { cut_there: true, ..Way::default() }, Way { cut_back: true, ..Way::default() });
    let both = Way { cut_there: true, cut_back: true, ..Way::default() };
    let slow = Way { delay: Duration::from_millis(60), ..Way::default() };
    match kind {
        "nodes killed" => {
            node.end(Signal::KILL).await;
            let gone = TcpStream::connect(node.at).await.is_err();
            tokio::time::sleep(length).await;
            node.start().await;
            gone
        }
        "nodes stopped" => {
            node.signal(Signal::STOP);
            tokio::time::sleep(length * 2).await;
            let stopped = is_stopped(node);
            node.signal(Signal::CONT);
            stopped
        }
        "nodes cut off from the database" => while_it_is(&node.way, both, length, held).await,
        "nodes that hear nothing from the database" => while_it_is(&node.way, back, length, held).await,
        "nodes that the database does not hear" => while_it_is(&node.way, there, length, held).await,
        "a slow way to the database" => while_it_is(&node.way, slow, length, |happened| &happened.delayed).await,
        "connections to the database reset" => {
            node.way.reset();
            let refuse = Way { refuse: true, ..Way::default() };
            while_it_is(&node.way, refuse, length, |happened| &happened.broken).await
        }
        "verifiers cut off" => while_it_is(&ways[one], both, length, held).await,
        "verifiers that are not heard" => while_it_is(&ways[one], there, length, held).await,
        "verifiers that hear nothing" => while_it_is(&ways[one], back, length, held).await,
        "a slow way to all nodes" => {
            ways.iter().for_each(|way| way.set(slow));
            let met = while_it_is(&ways[one], slow, length, |happened| &happened.delayed).await;
            ways.iter().for_each(Proxy::heal);
            met
        }
        "crashes of the database" => {
            let before = asked(cluster, "pg_postmaster_start_time()");
            block_in_place(|| cluster.crash());
            let after = asked(cluster, "pg_postmaster_start_time()");
            tokio::time::sleep(length).await;
            before != after
        }
        "clocks of nodes set" => {
            let step = dice.step(&[-86_400, -30, 20, 3_600]);
            node.set_clock(step);
            tokio::time::sleep(length).await;
            // A `Date` is kept until its second is over, so a clock that was set back shows much later.
            let set = has_settable_clock(node) && (step < 0 || is_ahead(shown_by(node).await, step));
            node.set_clock(0);
            set
        }
        "clocks of the database set" => {
            let step = dice.step(&[-20, -5, 5, 15]);
            cluster.set_clock(step);
            tokio::time::sleep(length).await;
            let shown = asked(cluster, "floor(extract(epoch FROM clock_timestamp()))::bigint");
            let set = is_ahead(shown.parse().unwrap(), step);
            cluster.set_clock(0);
            set
        }
        "standbys that took over" => {
            let timeline = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
            let before = asked(cluster, timeline);
            let standby = block_in_place(|| {
                let standby = cluster.follower();
                cluster.must_reach(&standby);
                standby
            });
            tokio::time::sleep(length).await;
            block_in_place(|| {
                cluster.end();
                standby.promote();
            });
            nodes.iter().for_each(|node| node.follow(&standby));
            *cluster = standby;
            asked(cluster, timeline) != before
        }
        "verifiers moved to another node" => {
            let connections = |way: &Proxy| way.happened.connections.load(Ordering::Relaxed);
            let before: Vec<u64> = ways.iter().map(connections).collect();
            for way in ways.iter() {
                way.aim_at(world.nodes[dice.index(world.nodes.len())]);
                way.reset();
            }
            tokio::time::sleep(length).await;
            let until = now() + MEETS;
            let moved = || ways.iter().zip(&before).all(|(way, before)| connections(way) > *before);
            while !moved() && now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            moved()
        }
        other => panic!("{other:?} is no kind of trouble"),
    }
}
