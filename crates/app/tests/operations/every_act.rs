//! Every act that writes, with a fault at its n-th operation, for every n and in every way: a client that keeps a journal of what
//! was acknowledged finds it in the database each time, nothing is half done, and asking again comes to what would have been
//! without the fault, once. (The chores are in `housekeeping`, the jobs in the simulator.)
use crate::application::Application;
use crate::world::{PASSWORD, bearer, memory, settings, sign_in};
use portcullis_app::admin::AccountPatch;
use portcullis_app::keys::MasterKey;
use portcullis_app::mass::Filtered;
use portcullis_app::oauth::{ClientPatch, OAuthTokens};
use portcullis_app::risk::Told;
use portcullis_app::roles::RoleChange;
use portcullis_app::{Admin, App, AppError, Caller, MailOptions, Mailer, RepeatKey, Tokens};
use portcullis_domain::client::Profile;
use portcullis_domain::family::Presented;
use portcullis_domain::import::{self, FirebaseProject, Line};
use portcullis_domain::keys::Wanted;
use portcullis_domain::mail::{self, Template};
use portcullis_domain::mass::Filter;
use portcullis_domain::model::{Account, ClientKind, Status};
use portcullis_domain::refresh::How;
use portcullis_domain::risk::{ExternalKind, Outcome};
use portcullis_domain::ticket::{self, TicketKind};
use portcullis_domain::{Change, Changes};
use portcullis_store::faulty::{Faulty, Mode};
use portcullis_store::memory::MemoryStore;
use portcullis_store::{EventFilter, Store};
use portcullis_wire::{Chain, ClientId, Code, Digest, KeyId, Rev, SecretString};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

macro_rules! acts {
    ($($name:ident)*) => {
        /// Everything that writes. The compiler asks for a row in [`Scene::act`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Act { $($name,)* }
        /// Each of them, so that none is named and not tried.
        const ALL: &[Act] = &[$(Act::$name),*];
    };
}

acts! {
    SignUp
    SignIn
    SignInByPage
    Refresh
    Theft
    RenameSession
    SignOut
    EndOne
    EndOthers
    EndAll
    ChangePassword
    RenameMe
    DeleteMe
    AdminCreate
    AdminChange
    Block
    Unblock
    Delete
    AdminEndSession
    AdminEndAccount
    Everyone
    RevokeAccounts
    RevokeByRule
    RevokeNow
    ChangeRoles
    RegisterClient
    ClientOff
    ClientOn
    Import
    Export
    RotateKeys
    RevokeKey
    RotateMaster
    MakeCode
    Redeem
    RedeemOffline
    RedeemAgain
    RefreshByApp
    GiveUpAccess
    GiveUpRefresh
    GiveUpOffline
    Withdraw
    ChangeClient
    RotateSecret
    ApplicationOff
    Signal
    SignalThatBlocks
    RuleAtRefresh
    RuleAtSignIn
    RuleAtChange
    AskForLink
    ResetByLink
    NotMe
    NotMeAtAll
    Refound
}

impl Act {
    /// Has no repeat key and makes something new each time: asked for again after a lost answer, it is there twice.
    fn makes_anew(self) -> bool {
        // A code that is redeemed again ends what it gave; so does a client that did not hear the answer (RFC 6749 §4.1.2).
        // Nobody reads the log here, so that a node does not know that it has ended an access token before.
        let code = matches!(self, Self::MakeCode | Self::Redeem | Self::RedeemOffline | Self::GiveUpAccess);
        // Each mail has a link of its own.
        let said = matches!(self, Self::AskForLink);
        let signs_in = matches!(self, Self::SignIn | Self::SignInByPage | Self::RuleAtSignIn);
        code || said || signs_in || matches!(self, Self::Export | Self::Refound)
    }
    /// More than one commit, each whole: a part of it may be there after a fault.
    fn in_parts(self) -> bool {
        let signs_in = matches!(self, Self::SignIn | Self::SignInByPage | Self::RuleAtSignIn);
        signs_in || matches!(self, Self::DeleteMe | Self::ChangeRoles)
    }
    /// What rules say meanwhile.
    fn judged(self) -> Option<(&'static str, Outcome)> {
        match self {
            Self::Signal => Some(("external", Outcome::EndAll)),
            Self::SignalThatBlocks => Some(("external", Outcome::Block { for_ms: None })),
            Self::RuleAtRefresh => Some(("refresh", Outcome::EndSession)),
            Self::RuleAtSignIn => Some(("sign_in", Outcome::EndAll)),
            Self::RuleAtChange => Some(("change", Outcome::EndSession)),
            _ => None,
        }
    }
    /// Whether it needs mail.
    fn is_by_mail(self) -> bool {
        matches!(self, Self::AskForLink | Self::ResetByLink | Self::NotMe | Self::NotMeAtAll)
    }
    /// It is refused, and ends something by that.
    fn is_refused(self) -> bool {
        matches!(self, Self::Theft | Self::RedeemAgain | Self::RuleAtRefresh | Self::RuleAtChange)
    }
    /// What asking again may be told, because the first try did it.
    fn done_before(self, code: Code) -> bool {
        match self {
            Self::SignUp => code == Code::EmailTaken,
            // It was told the first time that it is a copy, or is told now that this has ended the session.
            Self::Theft => matches!(code, Code::RefreshReused | Code::SessionEnded),
            // `invalid_grant`: it was used, by the first try.
            Self::Redeem | Self::RedeemOffline | Self::RedeemAgain => code == Code::Malformed,
            // The secret before this one still counts, and nobody takes it away by repeating a call.
            Self::RotateSecret => code == Code::Conflict,
            Self::RuleAtRefresh => code == Code::SessionEnded,
            Self::RuleAtChange => matches!(code, Code::SessionEnded | Code::TokenRevoked),
            // It was used, by the first try.
            Self::ResetByLink => code == Code::NotFound,
            _ => false,
        }
    }
}

struct Scene {
    app: App,
    store: Arc<Faulty<MemoryStore>>,
    admin: Admin,
    ada: Account,
    /// Blocked.
    eve: Account,
    phone: Tokens,
    laptop: Tokens,
    caller: Caller,
    /// Superseded: the phone's first refresh token.
    old: SecretString,
    on: ClientId,
    off: ClientId,
    next_master: MasterKey,
    theirs: Application,
    waiting: SecretString,
    waiting_offline: SecretString,
    used: SecretString,
    granted: OAuthTokens,
    connected: OAuthTokens,
    /// The link of a mail.
    link: SecretString,
}

impl Scene {
    async fn set(act: Act) -> Self {
        let store = Arc::new(Faulty::new(memory()));
        let (mut tasks, mut settings) = (JoinSet::new(), settings());
        if act.is_by_mail() {
            // Nobody listens there: what is sent waits.
            let options = MailOptions {
                url: "smtp://127.0.0.1:9",
                from: "id@example.org",
                templates: None,
                language: "en",
                authorities: &[],
            };
            settings.mail = Some(Mailer::new(&options).unwrap());
        }
        let app = App::start(store.clone(), settings, MasterKey::generate(), &mut tasks).await.unwrap();
        tasks.shutdown().await; // only the act's own operations are counted
        let admin = Admin::operator();
        let mut accounts = Vec::new();
        for name in ["ada", "bob", "eve"] {
            let email = format!("{name}@example.org");
            accounts.push(app.sign_up(&email, SecretString::new(PASSWORD), None, None).await.unwrap().unwrap());
        }
        let [ada, bob, eve] = accounts.try_into().unwrap();
        let (phone, laptop) = (sign_in(&app, &ada, false).await.unwrap(), sign_in(&app, &ada, false).await.unwrap());
        sign_in(&app, &bob, false).await.unwrap();
        let ended = sign_in(&app, &eve, false).await.unwrap();
        app.admin_end_session(&admin, ended.session.id, None).await.unwrap();
        app.admin_block(&admin, eve.id, "for the scene", None, None).await.unwrap();
        let old = phone.refresh_token.clone();
        let phone = app.refresh(&phone.refresh_token, bearer()).await.unwrap();
        let phone = app.refresh(&phone.refresh_token, bearer()).await.unwrap();
        let caller = app.caller(Some(phone.access_token.expose()), None).await.unwrap();
        let mut clients = Vec::new();
        for name in ["on", "off"] {
            clients.push(app.admin_create_client(&admin, name, ClientKind::Verifier).await.unwrap().client.id);
        }
        let [on, off] = clients.try_into().unwrap();
        app.admin_set_client_disabled(&admin, off, true).await.unwrap();
        let theirs = Application::register(&app, "an app").await;
        let used = theirs.code(&app, &caller, "openid read").await.unwrap();
        let granted = theirs.redeem(&app, &used).await.unwrap();
        let connected = theirs.granted(&app, &caller, "openid offline_access").await.unwrap();
        let waiting = theirs.code(&app, &caller, "openid read").await.unwrap();
        let waiting_offline = theirs.code(&app, &caller, "openid offline_access").await.unwrap();
        let link = link(&app, act, &ada, &laptop).await;
        app.set_judge(act.judged().map(|(kind, outcome)| crate::risk::on(kind, vec![outcome])));
        Self {
            next_master: MasterKey::generate(),
            app,
            store,
            admin,
            ada,
            eve,
            phone,
            laptop,
            caller,
            old,
            on,
            off,
            theirs,
            waiting,
            waiting_offline,
            used,
            granted,
            connected,
            link,
        }
    }

    /// Does it once. The entry that it acknowledges, if it acknowledges one.
    async fn act(&self, act: Act) -> Result<Option<Rev>, AppError> {
        let (app, admin, ada, caller) = (&self.app, &self.admin, &self.ada, &self.caller);
        let key = RepeatKey { key: "one call".into(), request: Digest::of(b"this call") };
        let again = Some(&key);
        let password = || SecretString::new(PASSWORD);
        Ok(match act {
            Act::SignUp => app.sign_up("new@example.org", password(), None, None).await.map(|_| None)?,
            Act::SignIn => sign_in(app, ada, false).await.map(|_| None)?,
            Act::SignInByPage => sign_in(app, ada, true).await.map(|_| None)?,
            Act::Refresh => app.refresh(&self.phone.refresh_token, bearer()).await.map(|_| None)?,
            Act::Theft => app.refresh(&self.old, bearer()).await.map(|_| None)?,
            Act::RenameSession => app.rename_mine(caller, self.laptop.session.id, "Laptop").await.map(|_| None)?,
            Act::SignOut => Some(app.end_mine(caller, self.phone.session.id, again).await?.rev),
            Act::EndOne => Some(app.end_mine(caller, self.laptop.session.id, again).await?.rev),
            Act::EndOthers => Some(app.end_all_mine(caller, true, again).await?.rev),
            Act::EndAll => Some(app.end_all_mine(caller, false, again).await?.rev),
            Act::ChangePassword => {
                let new = SecretString::new("another good password");
                Some(app.change_my_password(caller, password(), new, false, again).await?.rev)
            }
            Act::RenameMe => app.rename_me(caller, Some("Ada L.")).await.map(|_| None)?,
            Act::DeleteMe => Some(app.delete_me(caller, Some(password()), again).await?.rev),
            Act::AdminCreate => {
                let new = app.admin_create_account(admin, "new@example.org", None, None, vec![], false, again);
                new.await.map(|_| None)?
            }
            Act::AdminChange => {
                let patch = AccountPatch { roles: Some(vec!["editor".into()]), ..AccountPatch::default() };
                app.admin_change_account(admin, ada.id, patch).await.map(|_| None)?
            }
            Act::Block => Some(app.admin_block(admin, ada.id, "we had to", None, again).await?.rev),
            Act::Unblock => app.admin_unblock(admin, self.eve.id, None).await.map(|_| None)?,
            Act::Delete => Some(app.admin_delete(admin, ada.id, again).await?.rev),
            Act::AdminEndSession => Some(app.admin_end_session(admin, self.laptop.session.id, again).await?.rev),
            Act::AdminEndAccount => Some(app.admin_end_account(admin, ada.id, again).await?.rev),
            Act::Everyone => Some(app.admin_end_everyone(admin, None, "a leak", again).await?.rev),
            Act::RevokeAccounts | Act::RevokeByRule | Act::RevokeNow => {
                let filter = match act {
                    Act::RevokeAccounts => Filter { accounts: vec![ada.id], ..Filter::default() },
                    _ => Filter { created_before: Some(app.now().plus(1)), ..Filter::default() },
                };
                let now = act == Act::RevokeNow;
                match app.admin_revoke(admin, &filter, None, now, "a leak", again).await? {
                    Filtered::Done(revoked) | Filtered::Job { revoked, .. } => Some(revoked.rev),
                }
            }
            Act::ChangeRoles => {
                let (accounts, add) = (vec![ada.id, self.eve.id], vec!["editor".into()]);
                let change = RoleChange { accounts, add, remove: vec![], spread_ms: None, reason: None };
                app.admin_change_roles(admin, change, None).await?.rev
            }
            Act::RegisterClient => {
                let new = app.admin_register_client(admin, "new", ClientKind::Verifier, Profile::default(), again);
                new.await.map(|_| None)?
            }
            Act::ClientOff => app.admin_set_client_disabled(admin, self.on, true).await?.1.map(|revoked| revoked.rev),
            Act::ClientOn => app.admin_set_client_disabled(admin, self.off, false).await.map(|_| None)?,
            Act::Import => {
                let lines = ["c@example.org", "d@example.org"].map(|email| {
                    let line: Line = serde_json::from_value(serde_json::json!({ "email": email })).unwrap();
                    import::check(line, &FirebaseProject::default()).unwrap()
                });
                app.admin_import(admin, lines.into(), false).await.map(|_| None)?
            }
            Act::Export => app.admin_export(admin, true, None, 100).await.map(|_| None)?,
            Act::RotateKeys => {
                app.admin_rotate_keys(admin, Wanted { signing: false, mac: true }, again).await.map(|()| None)?
            }
            Act::RevokeKey => Some(app.admin_revoke_key(admin, KeyId(1), "leaked", again).await?.rev),
            Act::RotateMaster => app.admin_rotate_master(admin, self.next_master.clone()).await.map(|_| None)?,
            Act::Refound => Some(app.admin_refound(admin, "for the scene").await?.rev),
            Act::Signal | Act::SignalThatBlocks => {
                let told = Told { account: ada.id, kind: ExternalKind::Fraud, detail: None };
                app.admin_signal(admin, &told, again).await?.map(|revoked| revoked.rev)
            }
            // From elsewhere.
            Act::RuleAtRefresh => {
                let how = How { ip: Some([198, 51, 100, 7].into()), ..bearer() };
                app.refresh(&self.phone.refresh_token, how).await.map(|_| None)?
            }
            Act::RuleAtSignIn => sign_in(app, ada, false).await.map(|_| None)?,
            Act::RuleAtChange => {
                let new = SecretString::new("another good password");
                app.change_my_password(caller, password(), new, false, None).await.map(|_| None)?
            }
            Act::AskForLink => app.recover("ada@example.org", None).await.map(|()| None)?,
            Act::ResetByLink => {
                let new = SecretString::new("another good password");
                Some(app.reset_password(&self.link, new, None, None).await?.rev)
            }
            Act::NotMe => app.deny_session(&self.link, false, None).await.map(|()| None)?,
            Act::NotMeAtAll => app.deny_session(&self.link, true, None).await.map(|()| None)?,
            _ => return self.act_of_application(act, again).await,
        })
    }

    async fn act_of_application(&self, act: Act, again: Option<&RepeatKey>) -> Result<Option<Rev>, AppError> {
        let (app, admin, theirs, caller) = (&self.app, &self.admin, &self.theirs, &self.caller);
        let client = theirs.client.id;
        let refresh = |tokens: &OAuthTokens| tokens.refresh_token.clone().unwrap();
        Ok(match act {
            Act::MakeCode => theirs.code(app, caller, "openid").await.map(|_| None)?,
            Act::Redeem => theirs.redeem(app, &self.waiting).await.map(|_| None)?,
            Act::RedeemOffline => theirs.redeem(app, &self.waiting_offline).await.map(|_| None)?,
            Act::RedeemAgain => theirs.redeem(app, &self.used).await.map(|_| None)?,
            Act::RefreshByApp => theirs.refresh(app, &refresh(&self.granted)).await.map(|_| None)?,
            Act::GiveUpAccess => {
                app.revoke_token(&theirs.itself(), None, &self.granted.access_token, None).await.map(|()| None)?
            }
            Act::GiveUpRefresh => {
                app.revoke_token(&theirs.itself(), None, &refresh(&self.granted), None).await.map(|()| None)?
            }
            Act::GiveUpOffline => {
                app.revoke_token(&theirs.itself(), None, &refresh(&self.connected), None).await.map(|()| None)?
            }
            Act::Withdraw => Some(app.disconnect_app(caller, client, again).await?.rev),
            Act::ChangeClient => {
                let patch = ClientPatch { name: Some("Renamed".into()), profile: None };
                app.admin_change_client(admin, client, patch).await.map(|_| None)?
            }
            Act::RotateSecret => app.admin_rotate_secret(admin, client, 60_000).await.map(|_| None)?,
            Act::ApplicationOff => app.admin_set_client_disabled(admin, client, true).await?.1.map(|off| off.rev),
            _ => unreachable!("{act:?} is none of an application's"),
        })
    }

    /// What is in the database, without what chance made of it.
    async fn facts(&self) -> Facts {
        let store: &MemoryStore = &self.store;
        let mut facts = Facts::default();
        let mut say = |what: String| *facts.0.entry(what).or_default() += 1;
        let live = store.count_live().await.unwrap();
        (0..live.sessions).for_each(|_| say("a living session".into()));
        for account in store.list_accounts(None, None, 1000).await.unwrap().rows {
            let status = match account.status {
                Status::Active => "active",
                Status::Blocked(_) => "blocked",
                Status::Deleting { .. } => "deleting",
                Status::Deleted { .. } => "deleted",
            };
            let named = account.name.is_some();
            say(format!("account {:?} {status} {:?} named: {named}", account.email, account.roles));
            for view in store.list_sessions(account.id, 1000).await.unwrap() {
                say(format!("session named {:?}", view.session.device_name));
            }
            for view in store.list_grants(account.id, None, 1000).await.unwrap() {
                let own = view.session.client.is_some();
                say(format!("a living grant, offline: {own}, for {}", view.grant.scope));
            }
            for consent in store.list_consents(account.id).await.unwrap() {
                say(format!("consent {:?} {}", consent.scope, consent.generation));
            }
        }
        for client in store.list_clients(None, 1000).await.unwrap().rows {
            say(format!("client {} off: {}, version {}", client.name, client.disabled, client.version));
        }
        let rows = store.count_rows().await.unwrap();
        (0..rows.tickets).for_each(|_| say("a ticket".into()));
        (0..rows.grants).for_each(|_| say("a grant".into()));
        for code in [&self.waiting, &self.waiting_offline, &self.used] {
            let view = store.load_ticket(ticket::id(TicketKind::Code, code.expose())).await.unwrap();
            say(format!("a code, used: {:?}", view.map(|view| view.ticket.used.is_some())));
        }
        for tokens in [&self.granted, &self.connected] {
            let presented = Presented::parse(tokens.refresh_token.as_ref().unwrap()).unwrap();
            let view = store.load_refresh(presented.grant()).await.unwrap();
            say(format!("an application's grant at {:?}", view.map(|view| view.grant.family.counter)));
        }
        for key in store.list_keys().await.unwrap() {
            say(format!("key {:?} {:?} dead: {}", key.id, key.purpose, key.dead.is_some()));
        }
        for _ in store.list_running_jobs().await.unwrap() {
            say("a job".into());
        }
        for row in store.list_events(&EventFilter::default(), None, 10_000).await.unwrap().rows {
            say(format!("record {} with an entry: {}", row.event.kind.as_str(), row.rev.is_some()));
        }
        for tokens in [&self.phone, &self.laptop] {
            say(format!("a grant at the known counter: {}", self.app.is_current(tokens).await));
        }
        facts
    }

    /// The log holds every rev once, in order, and its links are right: nothing was written by halves.
    async fn check_log(&self) {
        let read = MemoryStore::read_log(&self.store, Rev::ZERO, 10_000).await.unwrap();
        let mut revs: Vec<u64> = read.entries.iter().map(|entry| entry.rev.0).collect();
        assert!(revs.is_sorted_by(|a, b| a + 1 == *b), "{revs:?}");
        assert_eq!(revs.pop(), Some(read.stamp.head.0));
        // A log that was founded anew goes on from a link whose entries are gone.
        if read.complete {
            let chain = read.entries.iter().fold(Chain::genesis(read.stamp.log), |chain, entry| chain.after(entry));
            assert_eq!(chain, read.stamp.chain);
        }
    }

    /// The client's journal: an acknowledged entry is in the log, with one record of the act.
    async fn check_journal(&self, acknowledged: &[Rev]) {
        for rev in acknowledged {
            let row = self.store.load_revocation(*rev).await.unwrap();
            assert_eq!(row.expect("what was acknowledged is there").rev, Some(*rev));
        }
    }
}

/// The link that an act follows, written as the mail about the laptop's sign-in, or asked for.
async fn link(app: &App, act: Act, ada: &Account, laptop: &Tokens) -> SecretString {
    let template = match act {
        Act::ResetByLink => Template::ResetPassword,
        Act::NotMe | Act::NotMeAtAll => Template::NewDevice,
        _ => return SecretString::new(""),
    };
    let (stamp, keys) = (app.store().stamp().await.unwrap(), app.keys());
    let (about, mut chance) = (Some(laptop.session.id), portcullis_app::real::RealChance);
    let letter = mail::Letter { session: about, ..mail::Letter::of(template, ada) };
    let steps = mail::write(letter, &stamp, keys.mac(), &mut chance);
    // Others wait, too: those of the sign-up and of sign-ins.
    let mut written = steps.iter().filter_map(|step| match step {
        Change::InsertMessage(message) => app.link_of(message).unwrap(),
        _ => None,
    });
    let (_, secret) = written.next().expect("a mail with a link");
    drop(written);
    app.store().commit(Changes { steps, ..Changes::default() }).await.unwrap();
    secret
}

/// How often each thing is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts(BTreeMap<String, usize>);

impl Facts {
    /// What is not the same, for a person to read.
    fn differ(&self, other: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let of = |facts: &Self, key: &str| facts.0.get(key).copied().unwrap_or(0);
        let lines = keys.into_iter().filter(|key| of(self, key) != of(other, key));
        lines.map(|key| format!("{key}: {} and not {}", of(self, key), of(other, key))).collect()
    }
}

/// What an act comes to without a fault: before, after, done twice, and of how many operations it is made.
struct Plain {
    before: Facts,
    once: Facts,
    twice: Facts,
    operations: u64,
}

async fn plainly(act: Act) -> Plain {
    let scene = Scene::set(act).await;
    let (before, from) = (scene.facts().await, scene.store.operations());
    let mut done = scene.act(act).await;
    let operations = scene.store.operations() - from;
    if act.is_refused() {
        assert!(act.done_before(done.unwrap_err().code()), "{act:?}");
        done = Ok(None);
    }
    let acknowledged: Vec<Rev> = done.unwrap_or_else(|error| panic!("{act:?}: {error}")).into_iter().collect();
    scene.check_journal(&acknowledged).await;
    let once = scene.facts().await;
    let _ = scene.act(act).await;
    let twice = scene.facts().await;
    scene.check_log().await;
    if !act.makes_anew() {
        assert_eq!(twice.differ(&once), [""; 0], "{act:?}, asked for again");
    }
    Plain { before, once, twice, operations }
}

/// One point of failure: the `n`-th operation of the act fails in this way.
async fn with_a_fault(act: Act, plain: &Plain, n: u64, mode: Mode) -> bool {
    let scene = Scene::set(act).await;
    let at = format!("{act:?}, operation {n} of {}, {mode:?}", plain.operations);
    let failed = scene.store.failed();
    scene.store.fail_at(n, mode);
    let first = scene.act(act).await;
    scene.store.never_fail();
    assert_eq!(scene.store.failed(), failed + 1, "{at}: the fault has happened");
    let mut journal: Vec<Rev> = first.iter().flatten().copied().collect();
    scene.check_journal(&journal).await;
    let between = scene.facts().await;
    if !act.in_parts() {
        let whole = [&plain.before, &plain.once].contains(&&between);
        assert!(whole, "{at}: half done: {:?} or {:?}", between.differ(&plain.before), between.differ(&plain.once));
    }
    let unheard = match &first {
        Ok(_) => false,
        Err(error) if act.done_before(error.code()) => false,
        Err(error) => {
            assert!(matches!(error.code(), Code::Unavailable | Code::Overloaded), "{at}: {error}");
            true
        }
    };
    if !unheard {
        assert_eq!(between.differ(&plain.once), [""; 0], "{at}: said to be done");
        return false;
    }
    match scene.act(act).await {
        Ok(rev) => journal.extend(rev),
        Err(error) => assert!(act.done_before(error.code()), "{at}, again: {error}"),
    }
    scene.check_journal(&journal).await;
    let after = scene.facts().await;
    let anew = act.makes_anew() && after == plain.twice;
    assert!(anew || after == plain.once, "{at}, again: {:?}", after.differ(&plain.once));
    scene.check_log().await;
    true
}

#[tokio::test]
async fn a_fault_at_every_operation_of_every_act() {
    let (mut points, mut unheard) = (0, 0);
    for &act in ALL {
        let plain = plainly(act).await;
        assert_ne!(plain.before, plain.once, "{act:?} does something");
        for n in 1..=plain.operations {
            for mode in Mode::ALL {
                points += 1;
                unheard += u32::from(with_a_fault(act, &plain, n, mode).await);
            }
        }
    }
    println!("{points} points of failure in {} acts, {unheard} of them told to the caller", ALL.len());
    assert!(points >= 300 && unheard >= points / 2, "{points} {unheard}");
}
