//! Every door, entered as users and operators enter it, against everything that an application can hold (I8): introspection,
//! userinfo, renewal and a service that judges offline say the same, and from when on.
//!
//! The same table, without HTTP and with commits held back in between, stands in `app` (`operations::doors`). Here the server is a
//! whole one, and the service is `portcullis demo-api`, a process of its own. A door without a way in does not compile: [`ways`] has
//! no default arm; and a credential without a word in a row does not either.
mod holdings;
mod ways;

use holdings::{Fate, Row, World};
use portcullis_domain::kernel::Door;
use ways::Way;

use Fate::{Ends, Lives, Renews};

/// How a door is entered from outside.
fn ways(door: Door) -> &'static [Way] {
    match door {
        Door::SignOut => &[Way::SignOut],
        Door::EndOne => &[Way::EndOne, Way::EndApiKey, Way::EndConnected, Way::EndDevice],
        Door::EndOthers => &[Way::EndOthers],
        Door::EndAll => &[Way::EndAll],
        Door::PasswordChange => &[Way::PasswordChange],
        Door::AdminEndSession => &[Way::AdminEndSession],
        Door::AdminEndAccount => &[Way::AdminEndAccount],
        Door::Block => &[Way::Block, Way::BlockService, Way::RuleBlocks],
        Door::Delete => &[Way::AdminDelete, Way::DeleteOneself],
        Door::Everyone => &[Way::Everyone],
        Door::Replay => &[Way::Replay],
        Door::SessionLimit => &[Way::SessionLimit],
        Door::ClientOff => &[Way::ClientDisabled, Way::ServiceDisabled, Way::ClientDeleted],
        Door::Filter => &[Way::Filter],
        Door::Refound => &[Way::Refound],
        Door::CodeReplay => &[Way::CodeReplay],
        Door::TokenRevoked => &[Way::RevokeRefresh, Way::RevokeAccess],
        Door::ConsentWithdrawn => &[Way::Disconnect, Way::DisconnectByApi],
        Door::RpLogout => &[Way::RpLogout],
        Door::GlobalRevocation => &[Way::GlobalRevocation],
        Door::UpstreamLogout => &[Way::UpstreamLogout],
        Door::LinkRemoved => &[Way::LinkRemoved],
        Door::KeyRevoked => &[Way::KeyRevoked],
        Door::RiskRule => &[Way::Signal, Way::RuleAtSignIn, Way::RuleAtProof, Way::RuleAtChange],
        Door::PasswordReset => &[Way::PasswordReset],
        Door::NotMe => &[Way::NotMe, Way::NotMeAtAll],
    }
}

/// What must happen.
fn expected(way: Way) -> Row {
    let none = Row::all(Lives);
    // What the application got under the browser's session, and what was made of that.
    let grant = Row { grant: Ends, exchanged: Ends, open_connection: Ends, ..none };
    let session = Row { other_application: Ends, browser: Ends, waiting_code: Ends, device_said_yes_to: Ends, ..grant };
    // Everything of a person. What waits for nobody in particular, and what machines have by themselves, is not theirs.
    let account = Row { service: Lives, pushed_request: Lives, bystander: Lives, ..Row::all(Ends) };
    let application = Row {
        connected: Ends,
        device: Ends,
        waiting_code: Ends,
        device_asks: Ends,
        device_said_yes_to: Ends,
        pushed_request: Ends,
        ..grant
    };
    match way {
        Way::SignOut | Way::EndOne | Way::AdminEndSession | Way::SessionLimit | Way::RpLogout => session,
        Way::NotMe => session,
        // Whoever is on the way back from there has signed out there, or is nobody's any more.
        Way::UpstreamLogout | Way::LinkRemoved => Row { upstream_sign_in: Ends, ..session },
        Way::EndOthers | Way::PasswordChange => Row { phone: Lives, ..account },
        Way::EndAll | Way::AdminEndAccount | Way::Block => account,
        Way::PasswordReset | Way::NotMeAtAll => account,
        // The link went with the account: whoever comes back from the provider is somebody new, with an account of their own.
        Way::AdminDelete | Way::DeleteOneself => Row { upstream_sign_in: Lives, ..account },
        Way::GlobalRevocation => account,
        Way::Signal | Way::RuleAtSignIn | Way::RuleBlocks => account,
        Way::RuleAtProof | Way::RuleAtChange => Row { phone: Ends, ..none },
        Way::Filter => account,
        // A machine has its secret, and begins anew.
        Way::Everyone | Way::Refound => Row { service: Renews, ..Row::all(Ends) },
        Way::ClientDisabled | Way::ClientDeleted => application,
        // Nothing was allowed yet by who is asked still, and a request says only what will be asked.
        Way::Disconnect | Way::DisconnectByApi => Row { device_asks: Lives, pushed_request: Lives, ..application },
        Way::Replay | Way::CodeReplay | Way::RevokeRefresh => grant,
        // What was shown, and what came of it: the grant goes on.
        Way::RevokeAccess => Row { grant: Renews, exchanged: Ends, open_connection: Ends, ..none },
        Way::BlockService | Way::ServiceDisabled => Row { exchanged: Ends, service: Ends, ..none },
        Way::EndApiKey => Row { api_key: Ends, ..none },
        Way::EndConnected => Row { connected: Ends, ..none },
        Way::EndDevice => Row { device: Ends, ..none },
        // Whatever it signed: everybody gets anew what they may have.
        Way::KeyRevoked => Row {
            grant: Renews,
            other_application: Renews,
            connected: Renews,
            device: Renews,
            exchanged: Ends,
            api_key: Renews,
            service: Renews,
            phone: Renews,
            bystander: Renews,
            open_connection: Ends,
            // The hint was signed with the dead key, and says nothing any more of who is meant.
            browser: Ends,
            ..none
        },
        // What was proven once with the old one goes on with the new one.
        Way::SecretRotated => none,
    }
}

async fn goes_through(way: Way) -> Row {
    let mut world = World::start(way).await;
    let entered = way.enter(&mut world).await;
    world.follows(way, entered).await;
    world.row(way).await
}

async fn all_of(doors: &[Door]) {
    let mut wrong = Vec::new();
    for way in doors.iter().flat_map(|door| ways(*door)) {
        let row = goes_through(*way).await;
        if row != expected(*way) {
            wrong.push(format!("{way:?}:\n  is        {row:?}\n  should be {:?}", expected(*way)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In two halves, side by side.
const HALF: usize = Door::ALL.len() / 2;

#[tokio::test]
async fn after_each_door_everybody_agrees_what_is_dead_in_the_first_half() {
    all_of(&Door::ALL[..HALF]).await;
}

#[tokio::test]
async fn after_each_door_everybody_agrees_what_is_dead_in_the_second_half() {
    all_of(&Door::ALL[HALF..]).await;
}

#[tokio::test]
async fn another_secret_ends_nothing_that_was_got_by_the_old_one() {
    assert_eq!(goes_through(Way::SecretRotated).await, expected(Way::SecretRotated));
}
