//! Imports that are repeated because their answers were lost, and hashes that are upgraded after a sign-in while everything else
//! goes on: no line is two accounts, the same line again is known, and no tombstone gets a password.
use crate::clock::At;
use crate::decide::{Facts, Outcome};
use crate::disk::{About, Owner};
use crate::mutant::Mutant;
use crate::server::Request;
use crate::world::{Event, World, tell};
use portcullis_domain::account::Email;
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::event::EventKind;
use portcullis_domain::import::{self, Checked, Fate, FirebaseProject, Found, Line};
use portcullis_domain::kernel::By;
use portcullis_domain::model::{Account, Status};
use portcullis_domain::refused::Refused;
use portcullis_domain::{Chance as _, Decision};
use portcullis_wire::{AccountId, ClientId};
use std::collections::BTreeMap;

/// What is known of imports in truth.
#[derive(Debug, Default)]
pub struct Imports {
    /// The last batch, which may be sent again.
    last: Vec<String>,
    /// Which account a committed import made for an address.
    made: BTreeMap<String, AccountId>,
}

fn checked(email: &str) -> Option<Checked> {
    let line: Line = serde_json::from_str(&format!("{{\"email\":\"{email}\"}}")).ok()?;
    import::check(line, &FirebaseProject::default()).ok()
}

impl World {
    /// The lines that an administrator imports: new ones, or the last ones once more.
    pub fn lines_to_import(&mut self) -> Vec<String> {
        if self.imports.last.is_empty() || self.rng.chance(500) {
            let n = self.rng.range(1, 4);
            self.imports.last = (0..n).map(|_| format!("line{}@example.org", self.fresh())).collect();
        }
        self.imports.last.clone()
    }

    pub fn load_import(&mut self, emails: &[String]) -> Facts {
        let now = self.database.now(self.now);
        let mut found = Vec::new();
        for line in emails.iter().filter_map(|email| checked(email)) {
            let id = match self.mutant {
                Some(Mutant::ImportIdsByChance) => AccountId::from_bits(self.rng.bits()),
                _ => import::id_of(&self.mac, &line.email),
            };
            let db = &self.disk.visible;
            let by_id = db.load_account(id, now).map(|view| view.account);
            let by_email = db.load_sign_in(line.email.as_str(), ClientId::FIRST_PARTY, now).account.map(|a| a.id);
            found.push((line, id, Found { by_id, by_email }));
        }
        Facts::Import(found)
    }

    pub fn decide_import(&mut self, found: &[(Checked, AccountId, Found)], by: &By<'_>) -> Decision<Outcome> {
        let stamp = self.stamp();
        let (fates, changes) = import::settle(&stamp, found, by, &mut self.rng);
        let lines = found.iter().map(|(line, ..)| line.email.clone()).zip(fates).collect();
        Decision { outcome: Ok(Outcome::Imported(lines)), changes }
    }

    /// What a commit on disk imported; and no password comes to who was deleted.
    pub fn truth_of_imports(&mut self, changes: &Changes) {
        let import = changes.events.iter().any(|event| event.kind == EventKind::AccountsImported);
        for step in &changes.steps {
            match step {
                Change::InsertAccount(account) if import => {
                    let email = account.email.clone().unwrap_or_default();
                    if let Some(before) = self.imports.made.insert(email.clone(), account.id) {
                        self.violate("I9", format!("{email} was imported twice, as {before} and {}", account.id));
                    }
                }
                Change::SetPassword { account, .. } => {
                    self.counts.add("hashes upgraded");
                    let row = self.disk.durable.load_account(*account, self.database.now(self.now));
                    if row.is_some_and(|view| matches!(view.account.status, Status::Deleted { .. })) {
                        self.violate("I10", format!("{account} was deleted, and got a password"));
                    }
                }
                _ => {}
            }
        }
    }

    /// I9: what an import says is there is on disk, and the same line again is the same account.
    pub fn check_imported(&mut self, lines: &[(Email, Fate)]) {
        let now = self.database.now(self.now);
        for (email, fate) in lines {
            let made = self.imports.made.get(email.as_str()).copied();
            match fate {
                Fate::Made(id) | Fate::There(id, _) => {
                    self.counts.add(if matches!(fate, Fate::Made(_)) { "lines imported" } else { "lines known again" });
                    if made != Some(*id) || self.disk.durable.load_account(*id, now).is_none() {
                        self.violate("I9", format!("{} is said to be {id}, and is not on disk", email.as_str()));
                    }
                }
                Fate::Refused(Refused::EmailTaken) if made.is_some() => {
                    let detail = format!("{} was imported, and the same line is refused", email.as_str());
                    self.violate("I9", detail);
                }
                Fate::Refused(_) => {}
            }
        }
    }

    /// After a sign-in the hash may be a worse one than new passwords get.
    pub fn maybe_upgrade(&mut self, request: &Request, account: &Account) {
        if matches!(request, Request::SignIn { .. }) && self.rng.chance(300) {
            let (life, delay): (u32, At) = (self.node.life, self.rng.range(20, 4_000));
            self.after(delay, Event::Upgrade { life, account: Box::new(account.clone()) });
        }
    }

    /// The better hash is computed: it goes to where the worse one was, if that is still so.
    pub fn upgrade(&mut self, account: &Account) {
        tell!(self, "server: a better hash for {}", account.id);
        let mut expects = vec![
            Expect::AccountVersion { account: account.id, version: account.version },
            Expect::PasswordVersion { account: account.id, version: account.password_version },
        ];
        if self.has(Mutant::UpgradeUnchecked) {
            expects.clear();
        }
        let steps = vec![Change::SetPassword { account: account.id, hash: "better".into(), rehash: true }];
        self.submit(Owner::Nobody, Changes { expects, steps, ..Changes::default() }, About::default());
    }
}
