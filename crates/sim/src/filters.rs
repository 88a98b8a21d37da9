//! Revocations by filter: an administrator asks, a rule stands, and a job works it off step by step while everything else goes
//! on, also across crashes.
use crate::disk::{About, Owner};
use crate::mutant::Mutant;
use crate::server::Request;
use crate::truth::Act;
use crate::world::{Event, World, tell};
use portcullis_domain::Decision;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::kernel::{By, Door, Scope};
use portcullis_domain::mass::{self, Filter, Standing};
use portcullis_domain::model::Session;
use portcullis_wire::{Rev, SessionId};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Rows that a step looks at and marks: few, so that a job takes many steps.
const LOOK: u32 = 6;
const MARK: u32 = 2;

impl World {
    /// Where a sign-in comes from.
    pub fn some_address(&mut self) -> Option<IpAddr> {
        (!self.rng.chance(100)).then(|| IpAddr::from([10, self.rng.range(0, 2) as u8, 0, 1]))
    }

    /// An administrator ends whom a filter matches.
    pub fn some_filter(&mut self, key: String) -> Request {
        let now = self.database.now(self.now);
        let network = format!("10.{}.0.0/16", self.rng.range(0, 2)).parse().ok();
        let by_age = self.rng.chance(600);
        let age = self.rng.range(0, 20_000);
        let filter = Filter {
            created_before: by_age.then(|| now.minus(age)),
            network: network.filter(|_| !by_age || self.rng.chance(500)),
            ..Filter::default()
        };
        Request::Filter { filter, now: self.rng.chance(500), key }
    }

    pub fn decide_filter(&mut self, filter: &Filter, now: bool, by: &By<'_>) -> Decision<()> {
        let stamp = self.stamp();
        let mut filter = filter.clone();
        if self.has(Mutant::FilterLosesAMember) && filter.network.is_some() && filter.created_before.is_some() {
            filter.network = None;
        }
        let decision = mass::create(&stamp, &filter, None, now, "an exercise", by, &mut self.rng);
        Decision { outcome: decision.outcome.map(|_| ()), changes: decision.changes }
    }

    /// The node looks for a job and takes its next step. The answer is not waited for: a step that was not written is taken
    /// again, and one that was is not where the next one begins.
    pub fn work_off(&mut self) {
        let (life, pause) = (self.node.life, self.rng.range(60, 600));
        self.after(pause, Event::Jobs { life });
        let Some(job) = self.disk.visible.list_running_jobs().into_iter().next() else { return };
        let batch = self.disk.visible.read_job_batch(&job, LOOK, MARK);
        tell!(self, "server: {} looks at {} rows, marks {}", job.id, batch.scanned, batch.sessions.len());
        let mut changes = mass::step(&job, batch, &mut self.rng);
        changes.idle_ttl = Some(self.settings.rules.idle_ttl);
        if self.has(Mutant::RuleTakenAwayEarly) {
            for step in &mut changes.steps {
                if let Change::StepJob(step) = step {
                    step.to = None;
                }
            }
        }
        self.submit(Owner::Nobody, changes, About::default());
    }

    /// What a commit on disk says of rules: whom one kills, that nobody whom one kills is born, and that jobs end.
    pub fn truth_of_filters(&mut self, changes: &Changes, act: Option<&mut Act>, rev: Option<Rev>) {
        let now = self.database.now(self.now);
        for step in &changes.steps {
            match step {
                Change::InsertSession(session) => self.check_born(session),
                Change::StepJob(step) => {
                    self.counts.add("job steps");
                    if step.to.is_none() {
                        self.counts.add("jobs done");
                    }
                    self.truth_of_marks(&step.sessions);
                }
                _ => {}
            }
        }
        if let (Some(act), Some(rev)) = (act, rev)
            && let Some(filter) = act.asked.clone()
        {
            let rule = Standing { rev, filter, except: None };
            let rows = self.truth.sessions.keys().filter_map(|id| self.disk.durable.load_session(*id, now));
            let only: BTreeSet<_> = rows.map(|view| view.session).filter(|s| rule.kills(s)).map(|s| s.id).collect();
            for _ in &only {
                self.counts.add("sessions matched by a filter");
            }
            act.only = Some(only);
            self.truth.rules.push(rule);
        }
    }

    /// Each session that a job ends with an entry of its own is an end like any other: who asks for it again gets its rev.
    fn truth_of_marks(&mut self, sessions: &[SessionId]) {
        let now = self.database.now(self.now);
        for id in sessions {
            let Some(view) = self.disk.durable.load_session(*id, now) else { continue };
            let Some(rev) = view.session.ended.map(|ended| ended.rev) else { continue };
            if !self.truth.by_rev.contains_key(&rev) {
                let scope = Scope::Session { account: view.account.id, session: *id };
                let act = Act { scope, only: None, asked: None, key: None, rev, ..act(&Filter::default(), "") };
                self.truth.by_rev.insert(rev, self.truth.acts.len());
                self.truth.acts.push(act);
            }
        }
    }

    /// I7: what a rule kills cannot be born after its commit, however long it was under way.
    fn check_born(&mut self, session: &Session) {
        if let Some(rule) = self.truth.rules.iter().find(|rule| rule.kills(session)) {
            let (id, born, rev) = (session.id, session.born, rule.rev);
            self.violate("I7", format!("{id}, born at {born}, came after the rule of {rev} that kills it"));
        }
    }
}

/// What a revocation by filter takes away.
pub fn act(filter: &Filter, key: &str) -> Act {
    Act {
        door: Door::Filter,
        scope: Scope::All,
        except: None,
        only: Some(BTreeSet::new()),
        asked: Some(filter.clone()),
        rev: Rev::ZERO,
        key: Some(key.to_owned()),
        acked: None,
        enforced: None,
        account: None,
    }
}
