//! What goes wrong, apart from the network's daily losses.
use crate::world::{Event, World, tell};

impl World {
    /// One more thing goes wrong, and later another.
    pub fn chaos(&mut self) {
        let pause = self.rng.range(300, 4_000);
        self.after(pause, Event::Chaos);
        let verifier = self.rng.index(self.verifiers.len());
        let (now, bound) = (self.now, self.settings.bound);
        let length = self.rng.range(100, 3 * bound);
        match self.rng.range(0, 15) {
            0 if self.node.up => {
                self.counts.add("crash: any time");
                self.crash();
            }
            1 => {
                let length = self.rng.range(100, 2 * bound);
                self.counts.add("server pauses");
                tell!(self, "server: paused for {length} ms");
                self.node.paused_until = now + length;
                self.floor_line.waits(now, length + 500);
            }
            2 => {
                self.counts.add("partitions: both ways");
                let link = &mut self.net.links[verifier];
                (link.up, link.down, link.stream) = (now + length, now + length, now + length);
                tell!(self, "network: verifier {verifier} cut off for {length} ms");
            }
            3 | 4 => {
                self.counts.add("partitions: one way");
                let up = self.rng.chance(500);
                let link = &mut self.net.links[verifier];
                if up {
                    link.up = now + length;
                } else {
                    (link.down, link.stream) = (now + length, now + length);
                }
                tell!(self, "network: verifier {verifier} cut off one way for {length} ms (to the server: {up})");
            }
            5 => {
                self.counts.add("partitions: stream only");
                self.net.links[verifier].stream = now + length;
                tell!(self, "network: the stream of verifier {verifier} is held up for {length} ms");
            }
            6 => self.break_streams(verifier),
            7 => self.suspend(verifier, length),
            8 => {
                let kind = self.rng.range(50, 20_000);
                self.step_wall(verifier, kind);
            }
            9 => {
                let back = self.rng.range(50, 20_000);
                self.step_wall(verifier, -back);
            }
            10 => self.step_database(),
            11 => {
                let length = self.rng.range(200, 2_500);
                self.net.clients = now + length;
                tell!(self, "network: clients cut off for {length} ms");
            }
            12 => {
                let length = self.rng.range(50, 1_500);
                self.disk.stalled_until = now + length;
                self.floor_line.waits(now, length + 500);
            }
            13 if self.rng.chance(500) => self.after(0, Event::VerifierRestart { verifier }),
            _ => {}
        }
    }

    fn step_wall(&mut self, verifier: usize, by: i64) {
        // Who can lose time uncounted and be set back within one lease cannot notice either: an honest limit of any clock.
        if by < 0 && !self.verifiers[verifier].counts_suspension {
            return;
        }
        let now = self.now;
        self.counts.add(if by > 0 { "verifier clock forward" } else { "verifier clock back" });
        self.verifiers[verifier].wall.step(by, now);
        tell!(self, "verifier {verifier}: wall clock set by {by} ms");
    }

    fn step_database(&mut self) {
        let worst = self.rng.pick(&[500, 3_000, if self.settings.slow { 1_200_000 } else { 20_000 }]);
        let by = self.rng.range(-worst, worst);
        self.counts.add(if by > 0 { "database clock forward" } else { "database clock back" });
        self.database.step(by, self.now);
        self.floor_after_setting();
        tell!(self, "database: clock set by {by} ms, off by {} now", self.database.offset());
    }
}
