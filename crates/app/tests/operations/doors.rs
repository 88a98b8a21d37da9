//! The table door × credential (I8). A door without a row does not compile: the match below has no default arm.
//!
//! Here commits are held back, so that something is under way at the very moment. What people and applications hold, and where they
//! show it, is in the table of `server` (`it::doors`), which enters every door from outside.
use crate::application::Application;
use crate::world::{PASSWORD, World, settings};
use portcullis_app::mass::Filtered;
use portcullis_app::oauth::{OAuthTokens, Subject};
use portcullis_app::risk::Told;
use portcullis_app::{MessageFilter, Revoked, Tokens};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::mass::Filter;
use portcullis_domain::risk::{ExternalKind, Outcome};
use portcullis_domain::session_limit::{AtLimit, SessionLimit};
use portcullis_domain::ticket::TicketKind;
use portcullis_domain::upstream::{Link, Origin};
use portcullis_wire::{Code, LinkId, Rev, SecretString};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a door does to a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is dead afterwards.
    Ends,
    /// It lives on: the door does not reach it.
    Lives,
}
use Fate::{Ends, Lives};

/// The credentials that exist so far. A new one is a new field, and every row must say what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    /// The access token of the session that the door is about, at the server.
    access_token: Fate,
    /// The same at a service that follows the feed: also what an open connection is judged by.
    access_token_at_services: Fate,
    /// Its refresh token.
    refresh_token: Fate,
    /// Its page cookie.
    browser_session: Fate,
    /// An authorization code that was made under it, and waits.
    code: Fate,
    /// The access token of an application's grant under it, at userinfo and introspection.
    grant_access_token: Fate,
    /// The same at a service.
    grant_at_services: Fate,
    /// The grant's refresh token.
    grant_refresh_token: Fate,
    /// The access token of the same application's offline grant, which has a session of its own.
    connected_access_token: Fate,
    /// Its refresh token.
    connected_refresh_token: Fate,
    /// What another application has under the session.
    other_application: Fate,
    /// Another session of the same account.
    other_session: Fate,
    /// A sign-in of the same account whose password was verified and that is not committed yet.
    sign_in_in_progress: Fate,
    /// Another account.
    bystander: Fate,
}

/// What must happen.
fn expected(door: Door) -> Row {
    let none = all_of(Lives);
    // What the application got under the session.
    let grant = Row { grant_access_token: Ends, grant_at_services: Ends, grant_refresh_token: Ends, ..none };
    let application = Row { code: Ends, connected_access_token: Ends, connected_refresh_token: Ends, ..grant };
    // The session goes with all that is under it; an application that keeps its access has a session of its own.
    let one = Row {
        access_token: Ends,
        access_token_at_services: Ends,
        refresh_token: Ends,
        browser_session: Ends,
        code: Ends,
        other_application: Ends,
        ..grant
    };
    let account = Row { bystander: Lives, ..all_of(Ends) };
    match door {
        Door::SignOut | Door::EndOne | Door::AdminEndSession | Door::Replay | Door::SessionLimit => one,
        Door::RpLogout | Door::UpstreamLogout | Door::LinkRemoved => one,
        // The session that the row is about is one that is ended: an other one calls. See also
        // `whoever_calls_keeps_what_is_under_their_own_session`.
        Door::EndOthers | Door::PasswordChange => Row { other_session: Lives, ..account },
        Door::EndAll | Door::AdminEndAccount | Door::Block | Door::Delete | Door::GlobalRevocation => account,
        // What is said of an account ends all of it; of one session see `operations::risk`.
        Door::RiskRule => account,
        Door::PasswordReset => account,
        // Of the session that the mail was about.
        Door::NotMe => one,
        Door::Everyone | Door::Refound => all_of(Ends),
        // By a rule and a job, waited for. The sign-in that is under way is decided anew, above the rule: it was not there yet.
        Door::Filter => Row { sign_in_in_progress: Lives, ..account },
        // The application's, and nothing of its users' own.
        Door::ClientOff | Door::ConsentWithdrawn => application,
        // Of the code that had given the grant; another code of the same application is another matter.
        Door::CodeReplay | Door::TokenRevoked => grant,
        // Every access token that the key signed, whoever's; no session: all refresh, and go on under another key.
        Door::KeyRevoked => Row {
            access_token: Ends,
            access_token_at_services: Ends,
            grant_access_token: Ends,
            grant_at_services: Ends,
            connected_access_token: Ends,
            other_application: Ends,
            other_session: Ends,
            bystander: Ends,
            ..none
        },
    }
}

fn all_of(fate: Fate) -> Row {
    Row {
        access_token: fate,
        access_token_at_services: fate,
        refresh_token: fate,
        browser_session: fate,
        code: fate,
        grant_access_token: fate,
        grant_at_services: fate,
        grant_refresh_token: fate,
        connected_access_token: fate,
        connected_refresh_token: fate,
        other_application: fate,
        other_session: fate,
        sign_in_in_progress: fate,
        bystander: fate,
    }
}

/// What an application and another one have of an account.
struct Granted {
    theirs: Application,
    another: Application,
    /// Gave the grant.
    used: SecretString,
    waiting: SecretString,
    grant: OAuthTokens,
    connected: OAuthTokens,
    others: OAuthTokens,
}

impl Granted {
    async fn under(world: &World, session: &Tokens) -> Self {
        let (app, caller) = (&world.app, world.caller(session).await.unwrap());
        let theirs = Application::register(app, "an app").await;
        let another = Application::register(app, "another app").await;
        let used = theirs.code(app, &caller, "openid read").await.unwrap();
        let grant = theirs.redeem(app, &used).await.unwrap();
        let others = another.granted(app, &caller, "openid").await.unwrap();
        let waiting = theirs.code(app, &caller, "read").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await; // the limit of sessions counts by milliseconds
        let connected = theirs.granted(app, &caller, "openid offline_access").await.unwrap();
        Self { theirs, another, used, waiting, grant, connected, others }
    }

    /// What lives of it, written into a row.
    async fn fates(&self, world: &World, at_services: Fate, row: Row) -> Row {
        let app = &world.app;
        let bearer = async |tokens: &OAuthTokens| {
            app.bearer(Some(tokens.access_token.expose()), &portcullis_verify::Holder::Bearer).await.is_ok()
        };
        let refresh = async |of: &Application, tokens: &OAuthTokens| {
            of.refresh(app, tokens.refresh_token.as_ref().unwrap()).await.is_ok()
        };
        Row {
            grant_access_token: fate(bearer(&self.grant).await),
            grant_at_services: at_services,
            connected_access_token: fate(bearer(&self.connected).await),
            other_application: fate(bearer(&self.others).await && refresh(&self.another, &self.others).await),
            grant_refresh_token: fate(refresh(&self.theirs, &self.grant).await),
            connected_refresh_token: fate(refresh(&self.theirs, &self.connected).await),
            code: fate(self.theirs.redeem(app, &self.waiting).await.is_ok()),
            ..row
        }
    }
}

fn fate(lives: bool) -> Fate {
    if lives { Lives } else { Ends }
}

/// Goes through the door; `mine` is the session that it is about, `other` the same account's other one.
async fn go_through(door: Door, world: &World, mine: &Tokens, other: &Tokens, granted: &Granted) -> Option<Revoked> {
    let (app, admin) = (&world.app, &world.admin);
    let revoked = match door {
        Door::SignOut => app.end_mine(&world.caller(mine).await.unwrap(), mine.session.id, None).await,
        Door::EndOne => app.end_mine(&world.caller(other).await.unwrap(), mine.session.id, None).await,
        Door::EndOthers => app.end_all_mine(&world.caller(other).await.unwrap(), true, None).await,
        Door::EndAll => app.end_all_mine(&world.caller(mine).await.unwrap(), false, None).await,
        Door::PasswordChange => {
            let (old, new) = (SecretString::new(PASSWORD), SecretString::new("another good password"));
            app.change_my_password(&world.caller(other).await.unwrap(), old, new, false, None).await
        }
        Door::AdminEndSession => app.admin_end_session(admin, mine.session.id, None).await,
        Door::AdminEndAccount => app.admin_end_account(admin, world.ada.id, None).await,
        Door::Block => app.admin_block(admin, world.ada.id, "test", None, None).await,
        Door::Delete => app.admin_delete(admin, world.ada.id, None).await,
        Door::GlobalRevocation => {
            let tool = crate::application::governance(app).await;
            app.revoke_globally(&tool, &Subject::Opaque { id: world.ada.id.to_string() }, None).await
        }
        Door::RiskRule => {
            app.set_judge(Some(crate::risk::on("external", vec![Outcome::EndAll])));
            let told = Told { account: world.ada.id, kind: ExternalKind::Fraud, detail: None };
            assert!(app.admin_signal(admin, &told, None).await.unwrap().is_some());
            app.set_judge(None);
            return None;
        }
        Door::Everyone => app.admin_end_everyone(admin, None, "test", None).await,
        Door::KeyRevoked => app.admin_revoke_key(admin, app.keys().signs_with(), "test", None).await,
        Door::Refound => {
            app.admin_refound(admin, "test").await.unwrap();
            return None;
        }
        Door::Filter => {
            let created_before = Some(app.now().plus(3_600_000));
            let filter = Filter { accounts: vec![world.ada.id], created_before, ..Filter::default() };
            let Ok(Filtered::Job { job, revoked }) = app.admin_revoke(admin, &filter, None, false, "test", None).await
            else {
                panic!("it needs a job")
            };
            while app.admin_job(admin, job).await.unwrap().finished_at.is_none() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            return Some(revoked);
        }
        Door::SessionLimit => {
            // The fourth one is one too many, for the application's is none; and then there is room again for the one that is in
            // progress.
            let third = world.sign_in(&world.ada, false).await.unwrap();
            let fourth = world.sign_in(&world.ada, false).await.unwrap();
            for more in [third, fourth] {
                app.admin_end_session(admin, more.session.id, None).await.unwrap();
            }
            return None;
        }
        Door::Replay => {
            let second = world.refresh(&mine.refresh_token).await.unwrap();
            world.refresh(&second.refresh_token).await.unwrap();
            let error = world.refresh(&mine.refresh_token).await.unwrap_err();
            assert_eq!(error.code(), Code::RefreshReused);
            return None;
        }
        Door::CodeReplay => {
            let again = granted.theirs.redeem(app, &granted.used).await;
            assert_eq!(again.unwrap_err().code(), Code::Malformed);
            return None;
        }
        Door::TokenRevoked => {
            let token = granted.grant.refresh_token.as_ref().unwrap();
            app.revoke_token(&granted.theirs.itself(), None, token, None).await.unwrap();
            return None;
        }
        Door::ConsentWithdrawn => {
            app.disconnect_app(&world.caller(mine).await.unwrap(), granted.theirs.client.id, None).await
        }
        Door::RpLogout => app.sign_out_by_application(&world.caller(mine).await.unwrap()).await,
        Door::LinkRemoved => {
            let link = linked(world, mine).await;
            app.remove_my_link(&world.caller(other).await.unwrap(), link).await.unwrap();
            return None;
        }
        // What another provider signs is fetched and looked at where there is one: in the table of `server`.
        Door::UpstreamLogout => {
            let caller = world.caller(mine).await.unwrap();
            let by = By { actor: caller.actor(), role: None, ip: None, reason: None };
            let scope = Scope::Session { account: world.ada.id, session: mine.session.id };
            let changes = kernel::end(door, scope, None, &by, &mut portcullis_app::real::RealChance);
            app.store().commit(changes).await.unwrap();
            return None;
        }
        Door::PasswordReset => {
            app.recover("ada@example.org", None).await.unwrap();
            let link = link(world, TicketKind::ResetPassword).await;
            app.reset_password(&link, SecretString::new("another good password"), None, None).await
        }
        Door::NotMe => {
            let stamp = app.store().stamp().await.unwrap();
            let keys = app.keys();
            let account = app.store().load_account(world.ada.id).await.unwrap().unwrap().account;
            let letter = Letter::of(Template::NewDevice, &account).about(mine.session.id);
            let mut chance = portcullis_app::real::RealChance;
            let steps = mail::write(letter, &stamp, keys.mac(), &mut chance);
            app.store().commit(Changes { steps, ..Changes::default() }).await.unwrap();
            app.deny_session(&link(world, TicketKind::NotMe).await, false, None).await.unwrap();
            return None;
        }
        Door::ClientOff => {
            let (client, revoked) = app.admin_set_client_disabled(admin, granted.theirs.client.id, true).await.unwrap();
            assert!(client.disabled);
            return revoked;
        }
    };
    Some(revoked.unwrap())
}

/// The secret of the newest link of this kind that is on its way in a mail.
async fn link(world: &World, wanted: TicketKind) -> SecretString {
    let page = world.app.store().list_messages(&MessageFilter::default(), None, 50).await.unwrap();
    let links = page.rows.iter().filter_map(|message| world.app.link_of(message).unwrap());
    let found = links.filter(|(kind, _)| *kind == wanted).map(|(_, secret)| secret).next();
    found.expect("a mail with such a link")
}

/// Makes `mine` a session that came by a link.
async fn linked(world: &World, mine: &Tokens) -> LinkId {
    let (id, now) = (LinkId::from_bits(7), world.app.now());
    let (issuer, subject) = ("https://another.example".to_owned(), "sub-1".to_owned());
    let link = Link {
        id,
        issuer: issuer.clone(),
        subject: subject.clone(),
        account: world.ada.id,
        upstream: "another".into(),
        label: None,
        created_at: now,
        used_at: now,
        out_at: None,
    };
    let origin = Origin { session: mine.session.id, issuer, subject, sid: None };
    let steps = vec![Change::InsertLink(link), Change::InsertOrigin(origin)];
    world.app.store().commit(Changes { steps, ..Changes::default() }).await.unwrap();
    id
}

async fn row_of(door: Door) -> Row {
    let mut settings = settings();
    if door == Door::PasswordReset {
        // Nobody listens there: what is sent waits.
        let options = portcullis_app::MailOptions {
            url: "smtp://127.0.0.1:9",
            from: "id@example.org",
            templates: None,
            language: "en",
            authorities: &[],
        };
        settings.mail = Some(portcullis_app::Mailer::new(&options).unwrap());
    }
    if door == Door::SessionLimit {
        settings.policy.session_limit = Some(SessionLimit { most: 3, at_limit: AtLimit::EndOldest });
    }
    let world = World::with(settings).await;
    // A page session, so that it has every credential that a session can have.
    let mine = world.sign_in(&world.ada, true).await.unwrap();
    let granted = Granted::under(&world, &mine).await;
    tokio::time::sleep(Duration::from_millis(5)).await; // the oldest is told by milliseconds
    let other = world.sign_in(&world.ada, false).await.unwrap();
    let bystander = world.sign_in(&world.eve, false).await.unwrap();
    let claims = at_services(&world, &mine.access_token);
    let grants = at_services(&world, &granted.grant.access_token);
    let head = world.app.hub().head();

    world.held.hold.store(true, Ordering::SeqCst);
    let (app, ada) = (world.app.clone(), world.ada.clone());
    let in_progress = tokio::spawn(async move { crate::world::sign_in(&app, &ada, false).await });
    world.held.reached.notified().await;

    // Held back is the sign-in above, not one of the door's own making.
    go_through(door, &world, &mine, &other, &granted).await;
    caught_up(&world, head).await;
    world.held.release.notify_one();
    let in_progress = in_progress.await.unwrap();

    // First what no other look changes.
    let at_server = fate(world.caller(&mine).await.is_ok());
    let cookie = mine.page_cookie.as_ref().unwrap();
    let browser_session = fate(world.app.page_caller(cookie, None).await.is_ok());
    let judged = fate(world.app.hub().judge_for_any(&grants, &portcullis_verify::Holder::AskedAbout).is_ok());
    let row = granted.fates(&world, judged, all_of(Lives)).await;
    let refreshed = world.refresh(&mine.refresh_token).await;
    Row {
        access_token: at_server,
        access_token_at_services: fate(world.app.hub().judge(&claims).is_ok()),
        refresh_token: fate(refreshed.is_ok()),
        browser_session,
        other_session: fate(world.caller(&other).await.is_ok() && world.refresh(&other.refresh_token).await.is_ok()),
        sign_in_in_progress: fate(match in_progress {
            Ok(tokens) => world.caller(&tokens).await.is_ok(),
            Err(error) => {
                assert_eq!(error.code(), Code::Conflict, "{door:?}");
                false
            }
        }),
        bystander: fate(
            world.caller(&bystander).await.is_ok() && world.refresh(&bystander.refresh_token).await.is_ok(),
        ),
        ..row
    }
}

fn at_services(world: &World, token: &SecretString) -> portcullis_verify::Authentic {
    world.app.hub().authenticate(token.expose()).unwrap().as_ref().clone()
}

/// The feed has whatever was committed by now.
async fn caught_up(world: &World, _before: Rev) {
    for _ in 0..200 {
        if world.app.hub().judges_by() == world.app.store().stamp().await.unwrap().head {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the hub does not follow the log");
}

#[tokio::test]
async fn every_door_against_every_credential() {
    for door in Door::ALL {
        assert_eq!(row_of(*door).await, expected(*door), "{door:?}");
    }
}

#[tokio::test]
async fn whoever_calls_keeps_what_is_under_their_own_session() {
    for door in [Door::EndOthers, Door::PasswordChange] {
        let world = World::start().await;
        let mine = world.sign_in(&world.ada, true).await.unwrap();
        let other = world.sign_in(&world.ada, false).await.unwrap();
        let granted = Granted::under(&world, &mine).await;
        let grants = at_services(&world, &granted.grant.access_token);
        // The door of `go_through` is called by its second session.
        go_through(door, &world, &other, &mine, &granted).await;
        caught_up(&world, Rev::ZERO).await;
        let judged = fate(world.app.hub().judge_for_any(&grants, &portcullis_verify::Holder::AskedAbout).is_ok());
        let row = granted.fates(&world, judged, all_of(Lives)).await;
        let kept = Row { connected_access_token: Ends, connected_refresh_token: Ends, ..all_of(Lives) };
        assert_eq!(row, kept, "{door:?}");
        assert!(world.caller(&mine).await.is_ok() && world.caller(&other).await.is_err());
    }
}

/// A client alone: everything of it. With another member: the sessions of its own that match.
#[tokio::test]
async fn a_filter_of_clients_ends_what_they_have() {
    for both in [false, true] {
        let world = World::start().await;
        let mine = world.sign_in(&world.ada, true).await.unwrap();
        let granted = Granted::under(&world, &mine).await;
        let grants = at_services(&world, &granted.grant.access_token);
        let clients = vec![granted.theirs.client.id];
        let accounts = if both { vec![world.ada.id] } else { vec![] };
        let filter = Filter { accounts, clients, ..Filter::default() };
        match world.app.admin_revoke(&world.admin, &filter, None, false, "test", None).await.unwrap() {
            Filtered::Done(_) => assert!(!both),
            Filtered::Job { job, .. } => {
                while world.app.admin_job(&world.admin, job).await.unwrap().finished_at.is_none() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        caught_up(&world, Rev::ZERO).await;
        let judged = fate(world.app.hub().judge_for_any(&grants, &portcullis_verify::Holder::AskedAbout).is_ok());
        let row = granted.fates(&world, judged, all_of(Lives)).await;
        let ended = expected(Door::ClientOff);
        let own = Row { connected_access_token: Ends, connected_refresh_token: Ends, ..all_of(Lives) };
        assert_eq!(row, if both { own } else { ended }, "{both}");
        assert!(world.caller(&mine).await.is_ok());
    }
}

#[tokio::test]
async fn a_repeated_end_gives_the_old_rev_and_ends_nothing() {
    let world = World::start().await;
    let (mine, other) =
        (world.sign_in(&world.ada, false).await.unwrap(), world.sign_in(&world.ada, false).await.unwrap());
    let caller = world.caller(&other).await.unwrap();
    let first = world.app.end_mine(&caller, mine.session.id, None).await.unwrap();
    assert_eq!(first.ended, Some(1));
    let again = world.app.end_mine(&caller, mine.session.id, None).await.unwrap();
    assert_eq!((again.rev, again.ended), (first.rev, Some(0)));
    // A sign-out repeated with the dead token.
    let out = world.app.end_mine(&caller, other.session.id, None).await.unwrap();
    let dead = world.app.caller_dead_or_alive(Some(other.access_token.expose()), None).await.unwrap();
    let again = world.app.end_mine(&dead, other.session.id, None).await.unwrap();
    assert_eq!((again.rev, again.ended), (out.rev, Some(0)));
}

#[tokio::test]
async fn ends_of_all_always_write_a_new_cut_and_count_exactly() {
    let world = World::start().await;
    for _ in 0..5 {
        world.sign_in(&world.ada, false).await.unwrap();
    }
    let first = world.app.admin_end_account(&world.admin, world.ada.id, None).await.unwrap();
    assert_eq!(first.ended, Some(5));
    let second = world.app.admin_end_account(&world.admin, world.ada.id, None).await.unwrap();
    assert_eq!(second.ended, Some(0));
    assert!(second.rev > first.rev);
}

#[tokio::test]
async fn a_dead_session_cannot_end_others_or_be_spared() {
    let world = World::start().await;
    let (mine, other) =
        (world.sign_in(&world.ada, false).await.unwrap(), world.sign_in(&world.ada, false).await.unwrap());
    let caller = world.caller(&mine).await.unwrap();
    let theirs = world.caller(&other).await.unwrap();
    world.app.end_mine(&theirs, mine.session.id, None).await.unwrap();
    // `caller` was alive when it was looked up, and is not any more.
    let error = world.app.end_all_mine(&caller, true, None).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenRevoked);
    assert!(world.caller(&other).await.is_ok());
    assert!(world.caller(&mine).await.is_err());
}
