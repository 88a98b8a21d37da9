//! What goes wrong, one thing after another.
use super::{Dice, World};
use crate::nodes::Node;
use portcullis_testkit::Cluster;
use portcullis_testkit::proxy::{Proxy, Way};
use rustix::process::Signal;
use std::time::Duration;

/// Everything that can go wrong, as it is counted.
pub const KINDS: [&str; 13] = [
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
];

/// What can go wrong.
pub struct Place {
    pub nodes: Vec<Node>,
    /// The ways of the verifiers.
    pub ways: Vec<Proxy>,
    /// The primary.
    pub cluster: Cluster,
}

/// Something goes wrong for a while, and is healed.
pub async fn trouble(world: &World, place: &mut Place, round: u64, dice: &mut Dice) {
    let Place { nodes, ways, cluster } = place;
    let which = dice.index(nodes.len());
    let length = Duration::from_millis(800 + dice.below(3_000));
    let node = &mut nodes[which];
    let way = |way: Way| {
        node.way.set(way);
        tokio::time::sleep(length)
    };
    match round % KINDS.len() as u64 {
        0 => {
            world.count("nodes killed");
            node.end(Signal::KILL).await;
            tokio::time::sleep(length).await;
            node.start().await;
        }
        1 => {
            world.count("nodes stopped");
            node.signal(Signal::STOP);
            tokio::time::sleep(length * 2).await;
            node.signal(Signal::CONT);
        }
        2 => {
            world.count("nodes cut off from the database");
            way(Way { cut_there: true, cut_back: true, ..Way::default() }).await;
        }
        3 => {
            world.count("nodes that hear nothing from the database");
            way(Way { cut_back: true, ..Way::default() }).await;
        }
        4 => {
            world.count("a slow way to the database");
            way(Way { delay: Duration::from_millis(60), ..Way::default() }).await;
        }
        5 => {
            world.count("connections to the database reset");
            node.way.reset();
            way(Way { refuse: true, ..Way::default() }).await;
        }
        6 => {
            world.count("verifiers cut off");
            let way = &ways[dice.index(ways.len())];
            way.set(Way { cut_there: true, cut_back: true, ..Way::default() });
            tokio::time::sleep(length).await;
            way.heal();
        }
        7 => {
            world.count("crashes of the database");
            tokio::task::block_in_place(|| cluster.crash());
            tokio::time::sleep(length).await;
        }
        8 => {
            world.count("verifiers that are not heard");
            let way = &ways[dice.index(ways.len())];
            way.set(Way { cut_there: true, ..Way::default() });
            tokio::time::sleep(length).await;
            way.heal();
        }
        9 => {
            world.count("clocks of nodes set");
            node.set_clock(dice.step(&[-86_400, -30, 20, 3_600]));
            tokio::time::sleep(length).await;
            node.set_clock(0);
        }
        10 => {
            world.count("clocks of the database set");
            cluster.set_clock(dice.step(&[-20, -5, 5, 15]));
            tokio::time::sleep(length).await;
            cluster.set_clock(0);
        }
        11 => {
            world.count("standbys that took over");
            let standby = tokio::task::block_in_place(|| {
                let standby = cluster.follower();
                cluster.must_reach(&standby);
                standby
            });
            tokio::time::sleep(length).await;
            tokio::task::block_in_place(|| {
                cluster.end();
                standby.promote();
            });
            nodes.iter().for_each(|node| node.follow(&standby));
            *cluster = standby;
        }
        _ => {
            world.count("verifiers moved to another node");
            for way in ways.iter() {
                way.aim_at(world.nodes[dice.index(world.nodes.len())]);
                way.reset();
            }
            tokio::time::sleep(length).await;
        }
    }
    nodes.iter().for_each(|node| node.way.heal());
    tokio::time::sleep(Duration::from_millis(400)).await;
}
