//! DPoP proofs at our own endpoints (RFC 9449): nonces, and single use across nodes and restarts.
//!
//! At the token endpoint a proof is as young as its nonce, a time of ours under our MAC, which every node can check and no node keeps. So a
//! client's clock does not matter there, and proofs made beforehand are worth nothing (RFC 9449 §11.2). At resources a proof is as young
//! as its `iat`. In both cases its id is a ticket in the database, for as long as it could be shown again.
use super::{Known, keeps_pace, refuse};
use crate::{App, AppError};
use portcullis_domain::changes::{Change, Changes, Conflict};
use portcullis_domain::refused::OAuthError;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_store::CommitError;
use portcullis_verify::proof::{self, Proven};
use portcullis_wire::dpop::{BadProof, Call, REMEMBERED};
use portcullis_wire::{Digest, Millis, Time, b64};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

/// How long a nonce counts, in milliseconds.
pub const NONCE_LIFE: Millis = 300_000;

const LABEL: &[u8] = b"dpop nonce";

/// What a wrong proof is called at OAuth's endpoints (RFC 9449 §5, §8).
fn refused(bad: BadProof) -> AppError {
    let error = if bad == BadProof::Nonce { OAuthError::UseDpopNonce } else { OAuthError::InvalidDpopProof };
    refuse(error, bad.as_str())
}

impl App {
    /// A nonce for the next proof: a time, and our mark on it.
    pub fn dpop_nonce(&self) -> String {
        let at = self.now().0.to_be_bytes();
        let tag = self.keys().mac().tag(LABEL, &[&at]);
        b64::encode(&[&at[..], &tag[..]].concat())
    }

    fn nonce_counts(&self, nonce: &str) -> bool {
        let Some(bytes) = b64::decode_array::<24>(nonce) else { return false };
        let (at, tag) = bytes.split_at(8);
        let ours = self.keys().macs().iter().any(|mac| Digest::of(&mac.tag(LABEL, &[at])) == Digest::of(tag));
        let made = at.try_into().map(i64::from_be_bytes).map(Time);
        ours && made.is_ok_and(|made| (0..NONCE_LIFE).contains(&self.now().since(made)))
    }

    /// The key behind a proof that came to `address`, an endpoint where clients ask for something; the proof is used up.
    ///
    /// # Errors
    /// `use_dpop_nonce`, `invalid_dpop_proof`; [`AppError::TooOften`] for a stranger; faults.
    pub async fn proven_for_endpoint(
        &self,
        known: &Known,
        text: &str,
        call: &Call<'_>,
        ip: Option<IpAddr>,
    ) -> Result<Proven, AppError> {
        let checked = proof::signed(text, call).and_then(|signed| signed.by_nonce(|nonce| self.nonce_counts(nonce)));
        match checked {
            Ok(proven) => {
                // What is used up is a row, and whoever signs with a key of their own has proven nothing yet.
                if known.is_stranger() {
                    keeps_pace(&self.inner.paces.proofs, ip)?;
                }
                self.use_up(proven, NONCE_LIFE).await.map_err(refused_or_fault)
            }
            Err(bad) => Err(refused(self.counted(bad))),
        }
    }

    /// The request that came with such a proof came to something: who sent it is no stranger after all.
    pub fn was_worth_its_proof(&self, known: &Known, ip: Option<IpAddr>) {
        if known.is_stranger() {
            self.inner.paces.proofs.give_back(ip);
        }
    }

    /// The key behind a proof that came with an access token. It is not used up: see [`App::use_up_proof`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn proven_for_resource(&self, text: &str, call: &Call<'_>) -> Result<Proven, BadProof> {
        let checked = proof::signed(text, call).and_then(|signed| signed.by_its_time(self.now()));
        checked.map_err(|bad| self.counted(bad))
    }

    /// Uses a resource's proof up, once the token has been judged.
    ///
    /// # Errors
    /// `invalid_dpop_proof` when it was shown before; faults.
    pub async fn use_up_proof(&self, proven: Proven) -> Result<(), AppError> {
        self.use_up(proven, REMEMBERED).await.map(drop).map_err(refused_or_fault)
    }

    async fn use_up(&self, proven: Proven, remembered: Millis) -> Result<Proven, Spent> {
        let (epoch, head) = self.hub().at();
        let ticket = Ticket {
            id: ticket::id(TicketKind::Proof, &format!("dpop:{}", b64::encode(&proven.once.0))),
            kind: TicketKind::Proof,
            account: None,
            session: None,
            client: None,
            born: head,
            epoch,
            expires_at: self.now().plus(remembered),
            body: String::new(),
            version: 1,
            used: None,
        };
        match self.spend(ticket).await? {
            true => Ok(proven),
            false => Err(Spent::Before(self.counted(BadProof::Replayed))),
        }
    }

    /// Whether this ticket is the first of its id.
    pub(super) async fn spend(&self, ticket: Ticket) -> Result<bool, AppError> {
        let changes = Changes { steps: vec![Change::InsertTicket(ticket)], ..Changes::default() };
        match self.store().commit(changes).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict(Conflict::Used)) => Ok(false),
            Err(error) => Err(self.fault(error.into())),
        }
    }

    fn counted(&self, bad: BadProof) -> BadProof {
        // Whoever is told to come again with a nonce has done nothing wrong.
        if bad != BadProof::Nonce {
            self.counts().proofs_refused.fetch_add(1, Ordering::Relaxed);
        }
        bad
    }
}

enum Spent {
    Before(BadProof),
    Fault(AppError),
}

impl From<AppError> for Spent {
    fn from(error: AppError) -> Self {
        Self::Fault(error)
    }
}

fn refused_or_fault(spent: Spent) -> AppError {
    match spent {
        Spent::Before(bad) => refused(bad),
        Spent::Fault(error) => error,
    }
}
