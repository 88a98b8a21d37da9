//! Where services saw access tokens: verifiers tell it beside their acknowledgements, if a service wants them to, and rules about
//! suspicious activity are asked about it.
//!
//! A verifier is another's program, and what it says may be made up. So it is hostile until parsed; it counts only about sessions that
//! live; it is judged by itself and teaches nothing ([`portcullis_domain::risk::observe()`]); and there is only so much of it, in one
//! call, of one client a minute, and of all together at once. What is too much is left out.
use crate::risk::{self, Look, Verdicts, Who};
use crate::{App, AppError};
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, Outcome, strongest};
use portcullis_domain::view::SessionView;
use portcullis_domain::{Change, Changes, Decision, Expect};
use portcullis_wire::frame::{MAX_SEEN_AGENT, MAX_SIGHTINGS, Sighting, SightingsRequest, network_of};
use portcullis_wire::{AccountId, ClientId, Code, GrantId, SessionId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// So many of one client a minute, at each node.
const A_MINUTE: u32 = 600;
/// And so many of one session: whoever shows its token in hundreds of networks takes no other's place.
const OF_ONE: u32 = 12;
/// So many calls are worked off at once; further ones are left out.
const AT_ONCE: usize = 4;
/// What is older says nothing of now.
const MAX_AGO_MS: u64 = 120_000;
/// Of so many clients it is known how many they told this minute.
const MAX_CLIENTS: usize = 10_000;

/// So many grants of an account are looked through for those of a session.
const MAX_GRANTS: u32 = 10_000;

/// How many were told.
pub(crate) struct Sightings {
    minute: Mutex<(i64, BTreeMap<ClientId, Told>)>,
    places: Semaphore,
}

/// What a client has told within a minute: all, and of each session.
#[derive(Default)]
struct Told {
    all: u32,
    of: BTreeMap<SessionId, u32>,
}

impl Default for Sightings {
    fn default() -> Self {
        Self { minute: Mutex::default(), places: Semaphore::new(AT_ONCE) }
    }
}

impl Sightings {
    /// Those of them that this client may tell now.
    fn may<'a>(&self, client: ClientId, seen: Vec<Seen<'a>>, minute: i64) -> Vec<Seen<'a>> {
        let mut known = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != minute || known.1.len() >= MAX_CLIENTS {
            *known = (minute, BTreeMap::new());
        }
        let told = known.1.entry(client).or_default();
        let mut may = |one: &Seen<'_>| {
            if told.all >= A_MINUTE {
                return false;
            }
            let of = told.of.entry(one.session).or_default();
            if *of >= OF_ONE {
                return false; // and nothing of what others may tell is used up
            }
            (*of, told.all) = (*of + 1, told.all + 1);
            true
        };
        seen.into_iter().filter(|one| may(one)).collect()
    }
}

/// A sighting that was parsed.
struct Seen<'a> {
    session: SessionId,
    network: IpAddr,
    agent: Option<&'a str>,
}

/// What can be used of it; `None` where it is too old.
fn parse(sighting: &Sighting) -> Result<Option<Seen<'_>>, AppError> {
    let bad = |detail: &str| AppError::Bad(Code::Malformed, format!("sightings: {detail}"));
    let network: IpAddr = sighting.network.parse().map_err(|_| bad("network is no address"))?;
    // The end of the address has no business here.
    if network_of(network) != network {
        return Err(bad("network has more than 24 bits (IPv4) or 56 (IPv6)"));
    }
    let agent = sighting.agent.as_deref();
    if agent.is_some_and(|agent| agent.len() > MAX_SEEN_AGENT || agent.chars().any(char::is_control)) {
        return Err(bad("agent is too long, or has control characters"));
    }
    let young = sighting.ago_ms <= MAX_AGO_MS;
    Ok(young.then_some(Seen { session: sighting.session, network, agent }))
}

impl App {
    /// Takes what a verifier has seen; how many of them were looked at.
    ///
    /// # Errors
    /// [`Code::InstanceGone`] for an instance that is not this client's; [`Code::Malformed`]; faults.
    pub async fn take_sightings(&self, client: ClientId, request: &SightingsRequest) -> Result<usize, AppError> {
        if request.sightings.len() > MAX_SIGHTINGS {
            let detail = format!("sightings: at most {MAX_SIGHTINGS} at once");
            return Err(AppError::Bad(Code::Malformed, detail));
        }
        self.hub().is_instance(client, request.instance, &request.instance_secret).await?;
        let seen: Vec<_> = request.sightings.iter().map(parse).collect::<Result<_, _>>()?;
        if !self.asks_rules() {
            return Ok(0);
        }
        let Ok(_place) = self.inner.sightings.places.try_acquire() else { return Ok(0) };
        let minute = self.now().0.div_euclid(60_000);
        let seen: Vec<Seen<'_>> = seen.into_iter().flatten().collect();
        let seen = self.inner.sightings.may(client, seen, minute);
        for seen in &seen {
            self.sighted(seen).await?;
        }
        Ok(seen.len())
    }

    /// What there is to know of a session that lives; what ended meanwhile, and what never was, says nothing.
    async fn look_at_sighting(&self, seen: &Seen<'_>) -> Result<Option<(SessionView, Look)>, AppError> {
        let view = self.store().load_session(seen.session).await.map_err(|e| self.fault(e.into()))?;
        let Some(view) = view.filter(|view| view.dead(self.settings().rules.idle_ttl).is_none()) else {
            return Ok(None);
        };
        let who = Who {
            account: view.account.id,
            newcomer: None,
            ip: Some(seen.network),
            own: true,
            user_agent: seen.agent,
            made: Some(risk::made(&view.session, None)),
            counted: None,
        };
        let look = self.look(&who).await?.map(Look::without_guesses);
        Ok(look.map(|look| (view, look)))
    }

    async fn sighted(&self, seen: &Seen<'_>) -> Result<(), AppError> {
        for _ in 0..crate::MAX_TRIES {
            let Some((view, look)) = self.look_at_sighting(seen).await? else { return Ok(()) };
            let account = view.account.id;
            let (verdict, news) = look.hears(&view.stamp, account, seen.session, Act::Sighting);
            // What a rule that only tells or asks has said within the hour is not said again.
            let (said, asks) = match strongest(&verdict) {
                Some((hit, outcome @ (Outcome::Notify | Outcome::StepUp))) => {
                    (Some(format!("sighting {}", hit.rule)), outcome == Outcome::StepUp)
                }
                _ => (None, false),
            };
            let quiet = match &said {
                Some(said) => !self.tells_now(account, said),
                None => verdict.hits.is_empty(),
            };
            // A session that is where it was is nothing new.
            if quiet && news.is_none() {
                return Ok(());
            }
            let grants = if asks && !quiet { self.grants_of(account, seen.session).await? } else { vec![] };
            let verdicts = Verdicts::default();
            let decide = |_: &(), chance: &mut dyn portcullis_domain::Chance| {
                let expects = vec![Expect::Alive { session: seen.session, role: None }];
                let mut base = Decision { outcome: Ok(()), changes: Changes { expects, ..Changes::default() } };
                if quiet {
                    base.changes.steps.extend(news.clone());
                    return base;
                }
                let at = At::Session(seen.session, None);
                let mut decision =
                    look.judge(self, base, &view.stamp, &view.account, at, Act::Sighting, &verdicts, chance);
                // Nobody says of which grant the token was, and one may have a proof of its own.
                let all = grants.iter().map(|grant| Change::Unprove { session: seen.session, grant: Some(*grant) });
                decision.changes.steps.extend(all);
                decision
            };
            let acted = self.act_once(|| async { Ok(()) }, decide).await;
            if matches!(acted, Ok(Some(())) | Err(AppError::Refused(_))) {
                self.judged(&verdicts);
            }
            match acted {
                Ok(None) => {}
                Ok(Some(())) => {
                    // Only now: what could not be committed is said the next time.
                    if let Some(said) = said.filter(|_| !quiet) {
                        self.has_told(account, &said);
                    }
                    return Ok(());
                }
                // It was ended by a rule, or meanwhile.
                Err(AppError::Refused(_) | AppError::Unauthenticated(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The grants of a session that live.
    async fn grants_of(&self, account: AccountId, session: SessionId) -> Result<Vec<GrantId>, AppError> {
        let living = self.store().list_grants(account, None, MAX_GRANTS).await.map_err(|e| self.fault(e.into()))?;
        Ok(living.iter().filter(|one| one.session.id == session).map(|one| one.grant.id).collect())
    }
}
