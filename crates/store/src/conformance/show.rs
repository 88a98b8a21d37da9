//! Everything that a store shows, as text: two stores with the same content show the same.
use super::{audit, wait};
use crate::{ChainRead, EventFilter, Peeked, Store};
use portcullis_domain::model::{Client, Grant, Instance, Key};
use portcullis_domain::retention::Retention;
use portcullis_domain::view::{AppView, RefreshView, SessionView, TicketView};
use portcullis_wire::{AccountId, ClientId, Digest, GrantId, JobId, Rev, SessionId};
use std::fmt::Write as _;

/// What is asked for by id, since no list has it.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Sessions.
    pub sessions: Vec<SessionId>,
    /// Grants.
    pub grants: Vec<GrantId>,
    /// Accounts.
    pub accounts: Vec<AccountId>,
    /// Addresses.
    pub emails: Vec<String>,
    /// Revocations by filter.
    pub jobs: Vec<JobId>,
    /// Tickets.
    pub tickets: Vec<Digest>,
    /// Repeated calls: actor and key.
    pub calls: Vec<(String, String)>,
}

/// Rules for what may go: nothing is kept, and not much.
pub(super) const KEPT: [Retention; 2] = [
    Retention { ended: 0, addresses: 0, events: None, idle_ttl: 2_000 },
    Retention { ended: 3_000, addresses: 2_000, events: None, idle_ttl: 1_000 },
];

/// All that `store` shows by its views and lists. Secrets are shown in the clear: they are those of tests.
pub fn show(store: &dyn Store, known: &Known) -> String {
    let mut out = String::new();
    macro_rules! line {
        ($($arg:tt)*) => { writeln!(out, $($arg)*).unwrap() };
    }
    line!("{:?}", wait(store.stamp()).unwrap());
    line!("{:?}", wait(store.load_bound()).unwrap());
    line!("{:?}", wait(store.count_attempts()).unwrap());
    for job in wait(store.list_running_jobs()).unwrap() {
        line!("{job:?} {:?}", wait(store.read_job_batch(&job, 7, 3)).unwrap());
        line!("{:?}", wait(store.count_matching(&job.rule.filter, job.rule.except)).unwrap());
    }
    known.jobs.iter().for_each(|job| line!("{:?}", wait(store.load_job(*job)).unwrap()));
    line!("{:?}", wait(store.list_due_accounts(1000)).unwrap());
    line!("{:?}", wait(store.count_rows()).unwrap());
    for keep in KEPT {
        line!("{:?}", wait(store.list_prunable(keep, None, 1000)).unwrap());
    }
    line!("live {:?}", wait(store.count_live()).unwrap());
    for account in wait(store.list_accounts(None, None, 1000)).unwrap().rows {
        line!("{account:?}");
        for view in wait(store.list_sessions(account.id, 1000)).unwrap() {
            line!("listed {}", show_session(&view));
        }
    }
    for id in &known.accounts {
        let view = wait(store.load_account(*id)).unwrap();
        line!("{:?}", view.map(|view| (view.stamp, view.account, view.all_ended)));
        line!("{:?}", wait(store.list_consents(*id)).unwrap());
        line!("{:?}", wait(store.load_risk(*id, &[])).unwrap());
        for view in wait(store.list_grants(*id, None, 1000)).unwrap() {
            line!("granted {} {:?}", show_grant(&view.grant), view.session);
        }
    }
    for id in &known.tickets {
        line!("{:?}", wait(store.load_ticket(*id)).unwrap().as_ref().map(show_ticket));
    }
    for email in &known.emails {
        let view = wait(store.load_sign_in(email, ClientId::FIRST_PARTY)).unwrap();
        line!("{email} {view:?}");
        let page = wait(store.list_accounts(Some(&email[..2]), None, 2)).unwrap();
        line!("{page:?}");
    }
    for id in &known.sessions {
        line!("{:?}", wait(store.load_session(*id)).unwrap().as_ref().map(show_session));
    }
    for id in &known.grants {
        line!("{:?}", wait(store.load_refresh(*id)).unwrap().as_ref().map(show_refresh));
    }
    for client in wait(store.list_clients(None, 1000)).unwrap().rows {
        line!("{}", show_client(&client));
        let view = wait(store.load_client(client.id)).unwrap().unwrap();
        assert_eq!(view.client, client);
        for id in &known.sessions {
            line!("{:?}", wait(store.load_app(*id, client.id)).unwrap().as_ref().map(show_app));
        }
        for id in &known.accounts {
            let some = wait(store.list_grants(*id, Some(client.id), 2)).unwrap();
            line!("{:?}", some.iter().map(|view| view.grant.id).collect::<Vec<_>>());
        }
    }
    wait(store.list_instances()).unwrap().iter().for_each(|row| line!("{}", show_instance(row)));
    wait(store.list_keys()).unwrap().iter().for_each(|row| line!("{}", show_key(row)));
    for (actor, key) in &known.calls {
        let row = wait(store.load_remembered(actor, key)).unwrap();
        line!("{actor} {key} {:?}", row.map(|row| (row.request.0, row.rev, row.ended, row.made, row.at)));
    }
    line!("{:?}", wait(store.list_events(&EventFilter::default(), None, 100_000)).unwrap());
    if let Some(ChainRead { chain, rows }) = audit::read(store) {
        line!("{} {} {:?} {:?}", chain.start.place, chain.head, chain.start.mac.0, chain.key.expose());
        for row in rows {
            let seal = row.seal.unwrap();
            let hides = [seal.hides.address, seal.hides.reason].map(|one| one.map(|one| (one.commitment.0, one.salt)));
            line!("{} {} {hides:?}", row.event.id, seal.place);
        }
        assert_eq!(audit::checked(store, None).findings, [], "the chain is whole after any history");
    }
    line!("{:?}", wait(store.count_unsealed()).unwrap());
    let (stamp, live) = wait(store.read_live()).unwrap();
    line!("{stamp:?} {live:?}");
    for rev in stamp.head.0.saturating_sub(3)..=stamp.head.0 {
        line!("{:?}", wait(store.read_log(Rev(rev), 2)).unwrap());
        line!("{:?}", wait(store.load_revocation(Rev(rev))).unwrap());
    }
    out
}

/// That who only looks is shown what the database holds: all but uses, which may be older, and secrets.
pub(super) fn looks_agree(store: &dyn Store, grants: &[GrantId], clients: &[ClientId]) {
    for id in grants {
        let (peeked, now) = (wait(store.peek_refresh(*id)).unwrap(), wait(store.load_refresh(*id)).unwrap());
        let now = now.map(Peeked::lean);
        let peeked = peeked.map(|peeked| {
            let mut view = RefreshView::clone(&peeked.view);
            if let Some(now) = &now {
                assert_eq!((peeked.now, peeked.head), (now.stamp.now, now.stamp.head), "who looks is told the time");
                assert_eq!((view.stamp.epoch, view.stamp.all), (now.stamp.epoch, now.stamp.all));
                view.stamp = now.stamp;
                view.grant.family = now.grant.family.clone();
                view.session.last_seen_at = now.session.last_seen_at;
                view.refreshed_at = now.refreshed_at;
            }
            show_refresh(&view)
        });
        assert_eq!(peeked, now.as_ref().map(show_refresh), "{id}");
    }
    for id in clients {
        let (peeked, now) = (wait(store.peek_client(*id)).unwrap(), wait(store.load_client(*id)).unwrap());
        assert_eq!(peeked.as_deref().map(show_client), now.map(|view| show_client(&view.client)), "{id}");
    }
}

fn show_session(view: &SessionView) -> String {
    let cookie = (view.session.cookie.map(|digest| digest.0), view.session.old_cookie.as_ref().map(|old| old.digest.0));
    format!(
        "{:?} {:?} {:?} {:?} {cookie:?} {:?}",
        view.stamp, view.session, view.account, view.refreshed_at, view.standing
    )
}

fn show_grant(grant: &Grant) -> String {
    let family = &grant.family;
    let times = (family.made_at, family.handed_at, family.handouts);
    let sender = grant.sender.map(|digest| digest.0);
    format!("{grant:?} {sender:?} {:?} {} {} {times:?}", family.secret, family.key, family.epoch)
}

fn show_refresh(view: &RefreshView) -> String {
    let RefreshView { stamp, grant, session, account, client_cut, client_disabled, access_ttl, refreshed_at, standing } =
        view;
    let of_client = (client_cut, client_disabled, access_ttl);
    let above = format!("{session:?} {account:?} {refreshed_at:?}");
    format!("{stamp:?} {} {above} {of_client:?} {standing:?}", show_grant(grant))
}

fn show_client(client: &Client) -> String {
    let old = client.old_secret.map(|(digest, until)| (digest.0, until));
    format!("{client:?} {:?} {old:?}", client.secret.map(|digest| digest.0))
}

fn show_app(view: &AppView) -> String {
    format!("{} {} {:?}", show_session(&view.session), show_client(&view.client), view.consent)
}

fn show_ticket(view: &TicketView) -> String {
    let TicketView { stamp, ticket, app } = view;
    format!("{stamp:?} {ticket:?} {:?} {:?}", ticket.id.0, app.as_ref().map(show_app))
}

fn show_instance(instance: &Instance) -> String {
    format!("{instance:?} {:?}", instance.secret.0)
}

fn show_key(key: &Key) -> String {
    format!("{key:?} {:?}", key.sealed.expose())
}
