//! What clients do: consents, tickets, grants that come of them.
use super::{Dice, FEW, GRANTS};
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::client::Profile;
use portcullis_domain::cut::Cut;
use portcullis_domain::model::{Client, ClientKind, Consent, Grant, OldCookie};
use portcullis_domain::proof::Proof;
use portcullis_domain::ticket::{self, Ticket, TicketKind, Used};
use portcullis_wire::{ClientId, Digest, Epoch, GrantId, Rev, Time};

/// The ids of tickets come and go, more slowly than those of sessions.
pub(super) const TICKETS: u128 = 4;
pub(super) const TICKET_EVERY: u64 = 40;

pub(super) fn ticket_id(n: u128) -> Digest {
    ticket::id(TicketKind::Code, &n.to_string())
}

impl Dice {
    fn ticket(&mut self) -> Digest {
        ticket_id(self.one_of(TICKETS, TICKET_EVERY))
    }
    fn grant_if(&mut self) -> Option<GrantId> {
        self.one_in(2).then(|| self.grant())
    }
    pub(super) fn client_if(&mut self) -> Option<ClientId> {
        self.one_in(4).then(|| self.client())
    }
    fn generation(&mut self) -> u32 {
        if self.one_in(2) { 0 } else { self.below(3) as u32 }
    }
    pub(super) fn amr(&mut self) -> Amr {
        [Amr::default(), Amr::unknown(), Amr::elsewhere(&["otp".into()])][self.below(3) as usize].clone()
    }
    pub(super) fn proof(&mut self, now: Time) -> Proof {
        Proof { at: self.time(now), amr: self.amr() }
    }
    fn scope(&mut self) -> String {
        ["", "openid", "openid profile"][self.below(3) as usize].into()
    }

    /// Several things that a client does at once.
    pub(super) fn app(&mut self, now: Time, head: Rev) -> Changes {
        let expects = if self.one_in(3) { vec![self.app_expect(head)] } else { vec![] };
        let mut steps: Vec<Change> = (0..=self.below(2)).map(|_| self.app_step(now, head)).collect();
        if self.one_in(6) {
            let client = self.client();
            steps.push(Change::InsertGrant(Grant { client, ..self.new_grant(now, head) }));
        }
        Changes { expects, steps, ..Changes::default() }
    }

    pub(super) fn app_expect(&mut self, head: Rev) -> Expect {
        let (account, client) = (self.account(), self.client());
        match self.below(7) {
            6 => Expect::Unended { account, born: self.some_born(head) },
            5 => Expect::GrantNotEnded(self.grant()),
            0 => Expect::ClientVersion { client, version: 1 + self.below(3) as u32 },
            1 => {
                let besides = (0..self.below(8)).map(|_| self.grant()).collect();
                Expect::NoOtherGrants { account, client, besides }
            }
            2 => Expect::Unborn { account, client, born: self.some_born(head), under: Some(self.session()) },
            _ => Expect::Consent { account, client, generation: self.generation() },
        }
    }

    fn app_step(&mut self, now: Time, head: Rev) -> Change {
        match self.below(12) {
            0..=2 => Change::InsertTicket(self.new_ticket(now, head)),
            3 | 4 => {
                let (version, row) = (1 + self.below(2) as u32, self.new_ticket(now, head));
                Change::UpdateTicket(Ticket { version, ..row })
            }
            5 | 6 => Change::UseTicket { ticket: self.ticket(), at: self.time(now), grant: self.grant_if() },
            7 if self.one_in(4) => Change::Unprove { session: self.session(), grant: self.grant_if() },
            7 if self.one_in(2) => Change::SetAuthTime { session: self.session(), at: self.time(now), amr: self.amr() },
            7 => {
                let digest = Digest::of(b"cookie");
                let old = self.one_in(2).then(|| OldCookie { digest, proof: self.proof(now), until: self.time(now) });
                Change::SetCookie { session: self.session(), before: digest, cookie: digest, old }
            }
            8 => {
                let (version, row) = (1 + self.below(3) as u32, self.new_client(now));
                Change::UpdateClient(Client { version, ..row })
            }
            9 => {
                let (account, client) = (self.account(), self.client());
                Change::WithdrawConsent { account, client, generation: self.generation() }
            }
            _ => Change::PutConsent(Consent {
                account: self.account(),
                client: self.client(),
                scope: self.scope(),
                granted_at: self.time(now),
                generation: self.generation(),
            }),
        }
    }

    fn new_ticket(&mut self, now: Time, head: Rev) -> Ticket {
        Ticket {
            id: self.ticket(),
            kind: TicketKind::ALL[self.below(TicketKind::ALL.len() as u64) as usize],
            account: self.one_in(2).then(|| self.account()),
            session: self.session_if(),
            client: self.one_in(2).then(|| self.client()),
            born: self.some_born(head),
            epoch: Epoch(1),
            expires_at: self.time(now),
            body: format!("{{\"n\":{}}}\0", self.below(9)),
            version: 1,
            used: self.one_in(20).then(|| Used { at: now, grant: Some(GrantId::from_bits(self.id(GRANTS))) }),
        }
    }

    pub(super) fn new_client(&mut self, now: Time) -> Client {
        let profile = Profile {
            redirect_uris: (0..self.below(3)).map(|n| format!("https://app{n}.example/\u{fc}\u{1}\0")).collect(),
            access_ttl_s: self.one_in(2).then(|| self.below(3600) as u32),
            ..Profile::default()
        };
        let until = self.time(now);
        Client {
            id: ClientId::from_bits(self.id(FEW)),
            name: "c".into(),
            kind: [ClientKind::Verifier, ClientKind::Confidential, ClientKind::Public][self.below(3) as usize],
            secret: self.one_in(2).then(|| Digest::of(b"c")),
            old_secret: self.one_in(3).then(|| (Digest::of(b"b"), until)),
            profile,
            version: 1,
            disabled: self.one_in(3),
            created_at: now,
            cut: Cut::default(),
        }
    }
}
