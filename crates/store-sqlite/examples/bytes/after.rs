//! What comes after the sign-ins: what is remembered of an account for the rules of risk, and the seals of the audit records.
use super::rows::{NOW, account, sign_in};
use portcullis_domain::Chance;
use portcullis_domain::audit::{self, AuditKey, ChainRow};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::risk::{Act, Guesses, Memory, Origin, Seen, observe};
use portcullis_store::{CommitError, Store};
use portcullis_wire::{LogId, SecretBytes};

/// What is remembered of the n-th account after its four sign-ins, from two networks.
pub fn remembered(n: u64) -> Changes {
    let Change::InsertAccount(row) = account(n) else { unreachable!("an account is inserted") };
    let mut memory = Memory::default();
    for (at, of) in (4 * n..4 * n + 4).zip([0_u64, 0, 1, 1]) {
        let Change::InsertSession(session) = sign_in(at).steps.remove(0) else { unreachable!("so is a session") };
        let seen = Seen {
            at: NOW.plus(of as i64 * 86_400_000),
            act: Act::SignIn { known_device: of > 0, breached: false },
            session: Some(session.id),
            made: None,
            from: Some(Origin::somewhere((row.id.bits() as u64 ^ of).to_be_bytes())),
            agent: session.agent,
            build: Default::default(),
            guesses: Guesses { account: 0, prefix: 0 },
        };
        memory = observe(&memory, &seen).1;
    }
    let steps = vec![Change::PutMemory { account: row.id, version: 0, memory: memory.write() }];
    Changes { steps, ..Changes::default() }
}

struct Counting(u128);
impl Chance for Counting {
    fn bits(&mut self) -> u128 {
        self.0 = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).wrapping_add(1);
        self.0
    }
}

/// Seals all records, as many at a time as the server does.
///
/// # Errors
/// Those of the store.
pub async fn seal_all(store: &dyn Store, log: LogId) -> Result<(), CommitError> {
    let key = AuditKey(SecretBytes::new([1; 32]));
    let start = key.genesis(log);
    let row = ChainRow::new(SecretBytes::new([2; 60]), start);
    store.commit(Changes { steps: vec![Change::BeginChain(row)], ..Changes::default() }).await?;
    let (mut head, mut chance) = (start.place, Counting(1));
    loop {
        let rows = store.list_unsealed(audit::AT_ONCE).await.map_err(CommitError::Failed)?;
        if rows.is_empty() {
            return Ok(());
        }
        let what = audit::seal(&key, log, head, &rows, &mut chance);
        head = what.to;
        store.commit(Changes { steps: vec![Change::Seal(what)], ..Changes::default() }).await?;
    }
}
