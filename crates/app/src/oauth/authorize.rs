//! The authorization endpoint, without its pages.
use super::{as_grant_error, refuse};
use crate::risk::{Look, Verdicts};
use crate::{Acted, App, AppError, Caller};
use portcullis_domain::Chance;
use portcullis_domain::authorize::{Asked, grant_code, usable, widens};
use portcullis_domain::model::Client;
use portcullis_domain::proof::{self, Proof};
use portcullis_domain::refused::OAuthError;
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, What};
use portcullis_domain::subject;
use portcullis_domain::view::{AppView, SessionView};
use portcullis_wire::{ClientId, Digest, SecretString, Time, b64};
use std::net::IpAddr;

/// For how long a request may go on asking for the sign-in that it wanted, in milliseconds.
const SEEN_LIFE: i64 = 3_600_000;

impl App {
    /// The client that an authorization request names; `None` when there is no such one.
    pub async fn authorizing_client(&self, id: &str) -> Result<Option<Client>, AppError> {
        self.client_by_text(id).await
    }

    /// A caller beside a client: what the rules of an authorization request look at. `None` when the session has died. A proof that
    /// came after what the caller has shown is not theirs (see `domain::proof`).
    pub async fn app_view(&self, caller: &Caller, client: ClientId) -> Result<Option<AppView>, AppError> {
        let session = caller.view.session.id;
        let view = self.store().load_app(session, client).await.map_err(|e| self.fault(e.into()))?;
        let view = view.map(|mut view| {
            proof::as_shown(&mut view.session.session, Proof::of(&caller.view.session));
            view
        });
        Ok(view.and_then(|view| usable(view, &self.settings().rules)))
    }

    /// Makes the code of a request for which nothing has to happen any more; `agreed`: its user has just said yes.
    ///
    /// # Errors
    /// Refused when what it rests on died meanwhile.
    pub async fn grant_code(
        &self,
        caller: &Caller,
        client: ClientId,
        asked: &Asked,
        agreed: bool,
        ip: Option<IpAddr>,
    ) -> Result<SecretString, AppError> {
        let load = || async {
            if let Some(pushed) = asked.pushed {
                let ticket = self.pushed_ticket(pushed).await?.map(|view| view.ticket);
                if ticket.is_none_or(|ticket| ticket.used.is_some()) {
                    let detail = "this pushed request was used before";
                    return Err(refuse(OAuthError::InvalidRequestUri, detail));
                }
            }
            let view = self.app_view(caller, client).await?;
            let view = view.ok_or(AppError::Unauthenticated(portcullis_wire::Code::TokenRevoked))?;
            // What was allowed before is nothing new.
            let look = if widens(&view, asked) { self.look_at(caller, None).await? } else { None };
            Ok((view, look))
        };
        let verdicts = Verdicts::default();
        let decide = |(view, look): &(AppView, Option<Look>), chance: &mut dyn Chance| {
            let base = grant_code(view, asked, agreed, ip, chance);
            let Some(look) = look.as_ref().filter(|_| base.outcome.is_ok()) else { return base };
            let SessionView { session, account, stamp, .. } = &view.session;
            let (at, act) = (At::Session(session.id, None), Act::Change(What::App));
            look.judge(self, base, stamp, account, at, act, &verdicts, chance)
        };
        let acted = self.act("", None, load, decide).await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        match acted.map_err(as_grant_error)? {
            Acted::Done(code, _) | Acted::Answered(code) => Ok(code),
            Acted::Before(_) => Err(AppError::Fault("a code has no repeat key".into())),
        }
    }

    /// What stands for a page that was shown, so that an answer to it cannot be made up.
    pub fn shown(&self, what: &str) -> String {
        b64::encode(&self.keys().mac().tag(b"shown", &[what.as_bytes()]))
    }

    /// A mark of when this request first came, that nobody else can make: a sign-in after it is the one that it asked for.
    pub fn first_seen(&self, request: &str) -> String {
        let at = self.now().0.to_be_bytes();
        let tag = self.keys().mac().tag(b"authorization request", &[&at, &Digest::of(request.as_bytes()).0]);
        b64::encode(&[&at[..], &tag[..]].concat())
    }

    /// When that was; `None` for a mark that is not ours, of another request, or too old.
    pub fn when_first_seen(&self, request: &str, mark: &str) -> Option<Time> {
        let bytes: [u8; 24] = b64::decode_array(mark)?;
        let (at, tag) = bytes.split_at(8);
        let asked = Digest::of(request.as_bytes());
        let keys = self.keys();
        let ours = keys.macs().iter().any(|mac| {
            // Not a secret by itself: who knows it is who was given it. Compared as digests all the same.
            Digest::of(&mac.tag(b"authorization request", &[at, &asked.0])) == Digest::of(tag)
        });
        let at = Time(i64::from_be_bytes(at.try_into().ok()?));
        let age = self.now().since(at);
        (ours && (0..SEEN_LIFE).contains(&age)).then_some(at)
    }

    /// Whose session an `id_token_hint` means: an ID token of ours, which may have expired (OpenID Connect Core §3.1.2.1).
    pub fn hinted(&self, id_token: &str) -> Option<crate::keys::Hint> {
        self.keys().read_id_token(id_token).filter(|hint| hint.iss == self.settings().rules.issuer)
    }

    /// Whether a hint means whoever is signed in; `None` when it says nothing.
    pub fn hint_means(&self, id_token: &str, view: &AppView) -> Option<bool> {
        let hint = self.hinted(id_token)?;
        Some(subject::means(&hint.sub, &view.client, view.session.account.id, self.keys().pairwise()))
    }
}
