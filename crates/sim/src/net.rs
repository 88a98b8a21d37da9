//! The network: messages that are late, lost, doubled, overtaken, or stopped by a partition.
use crate::clock::At;
use crate::server::{Reply, Request};
use crate::verifiers::Reach;
use crate::world::{Event, World};
use portcullis_feed::subscriber::Ask;
use portcullis_wire::{InstanceId, Rev, SecretString};

/// Until when which way to a verifier is cut.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    pub up: At,
    pub down: At,
    pub stream: At,
}

/// The network's state.
#[derive(Debug, Clone, Default)]
pub struct Net {
    pub links: Vec<Link>,
    /// Until when clients are cut off.
    pub clients: At,
}

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Device(usize),
    Thief(usize),
    Guesser,
    Application,
    Provider,
    Admin,
    /// Somebody new.
    Newcomer,
    /// Somebody with a mail.
    Reader,
}

/// To the server.
#[derive(Debug, Clone)]
pub enum ToServer {
    Call { from: From, call: u64, request: Request },
    Open { verifier: usize, conn: u64, identity: Option<(InstanceId, SecretString)>, position: Option<String> },
    Close { conn: u64 },
    Ask { verifier: usize, ask: Ask },
    Pull { verifier: usize, part: u32, rev: Option<Rev> },
}

/// To a client.
#[derive(Debug, Clone)]
pub struct ToClient {
    pub to: From,
    pub call: u64,
    pub reply: Reply,
}

/// To a verifier.
#[derive(Debug, Clone)]
pub struct ToVerifier {
    pub verifier: usize,
    pub life: u32,
    pub what: Reach,
}

impl World {
    /// Sends a client's call. No message is later than half of the retry window (the promise that I6 rests on).
    pub fn call(&mut self, from: From, call: u64, request: Request) {
        let message = ToServer::Call { from, call, request };
        if self.rng.chance(15) {
            self.counts.add("messages duplicated");
            let delay = self.client_delay();
            self.after(delay, Event::AtServer(Box::new(message.clone())));
        }
        if self.client_loss() {
            return;
        }
        let delay = self.client_delay();
        self.after(delay, Event::AtServer(Box::new(message)));
    }

    /// Sends a reply.
    pub fn reply_to(&mut self, to: From, call: u64, reply: Reply) {
        if self.client_loss() {
            return;
        }
        let delay = self.client_delay();
        self.after(delay, Event::AtClient(Box::new(ToClient { to, call, reply })));
    }

    fn client_loss(&mut self) -> bool {
        let lost = self.now < self.net.clients || self.rng.chance(40);
        if lost {
            self.counts.add("messages dropped");
        }
        lost
    }

    fn client_delay(&mut self) -> i64 {
        let worst = self.settings.rules.retry_window / 2 - 1;
        let delay = self.rng.delay(30, worst);
        if delay > 100 {
            self.counts.add("messages reordered");
        }
        delay
    }

    /// Sends from a verifier to the server.
    pub fn verifier_sends(&mut self, verifier: usize, message: ToServer) {
        if self.now < self.net.links[verifier].up || self.rng.chance(15) {
            return self.counts.add("messages dropped");
        }
        let times = if self.rng.chance(10) { 2 } else { 1 };
        for _ in 0..times {
            let delay = self.rng.delay(15, 1500);
            self.after(delay, Event::AtServer(Box::new(message.clone())));
        }
    }

    /// Sends an answer to a verifier.
    pub fn answer_verifier(&mut self, verifier: usize, what: Reach) {
        if self.now < self.net.links[verifier].down || self.rng.chance(15) {
            return self.counts.add("messages dropped");
        }
        let life = self.verifiers[verifier].life;
        let times = if self.rng.chance(10) { 2 } else { 1 };
        for _ in 0..times {
            let delay = self.rng.delay(15, 1500);
            let message = ToVerifier { verifier, life, what: what.clone() };
            self.after(delay, Event::AtVerifier(Box::new(message)));
        }
    }
}
