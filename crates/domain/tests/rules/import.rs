//! Importing: random batches into a small world, again and again, against what must hold whatever they are.
use crate::world::{Seeded, key, stamp};
use portcullis_domain::changes::Change;
use portcullis_domain::import::{Checked, Fate, FirebaseProject, Found, Line, check, id_of, line_of, settle};
use portcullis_domain::kernel::By;
use portcullis_domain::model::{Account, Status};
use portcullis_domain::{Expect, Refused};
use portcullis_wire::{AccountId, Rev, Time};
use std::collections::BTreeMap;

const NOW: Time = Time(1_800_000_000_000);

fn checked(json: &str) -> Result<Checked, Refused> {
    check(serde_json::from_str::<Line>(json).unwrap(), &FirebaseProject::default())
}

#[derive(Default)]
struct Kept(BTreeMap<AccountId, Account>);

impl Kept {
    fn found(&self, id: AccountId, email: &str) -> Found {
        let by_email = self.0.values().find(|account| account.email.as_deref() == Some(email)).map(|a| a.id);
        Found { by_id: self.0.get(&id).cloned(), by_email }
    }
    fn import(&mut self, lines: &[Checked], dice: &mut Seeded) -> Vec<Fate> {
        let id = |line: &Checked| line.id.unwrap_or_else(|| id_of(&key(), &line.email));
        let all: Vec<_> =
            lines.iter().map(|line| (line.clone(), id(line), self.found(id(line), line.email.as_str()))).collect();
        let (fates, changes) = settle(&stamp(NOW), &all, &By::SYSTEM, dice);
        assert_eq!(fates.len(), lines.len());
        let made = fates.iter().filter(|fate| matches!(fate, Fate::Made(_))).count();
        assert_eq!((changes.steps.len(), changes.events.len()), (made, usize::from(made > 0)), "one record a batch");
        for expect in &changes.expects {
            if let Expect::EmailFree(email) = expect {
                assert!(self.found(AccountId::from_bits(0), email).by_email.is_none(), "{email} is taken");
            }
        }
        for step in changes.steps {
            let Change::InsertAccount(account) = step else { panic!("{step:?}") };
            assert!(self.found(account.id, "").by_id.is_none(), "an id twice");
            let email = account.email.as_deref().unwrap();
            assert!(self.found(account.id, email).by_email.is_none(), "an address twice");
            self.0.insert(account.id, account);
        }
        fates
    }
}

#[test]
fn nothing_doubles_and_the_same_again_changes_nothing() {
    let (mut made, mut there, mut refused) = (0, 0, 0);
    for seed in 0..2_000 {
        let (mut dice, mut kept) = (Seeded(seed), Kept::default());
        for _ in 0..6 {
            let lines: Vec<Checked> = (0..1 + dice.below(8))
                .map(|_| {
                    let id = (dice.below(3) == 0).then(|| AccountId::from_bits(u128::from(dice.below(6))));
                    let id = id.map_or(String::new(), |id| format!("\"id\":\"{id}\","));
                    let name = ["", ",\"name\":\"n\""][dice.below(2) as usize];
                    let blocked = ["", "", ",\"blocked\":{\"reason\":\"r\"}"][dice.below(3) as usize];
                    checked(&format!("{{{id}\"email\":\"user{}@example.org\"{name}{blocked}}}", dice.below(8))).unwrap()
                })
                .collect();
            let first = kept.import(&lines, &mut dice);
            let before = kept.0.clone();
            let again = kept.import(&lines, &mut dice);
            assert_eq!(kept.0, before, "seed {seed}: the same batch again wrote something");
            for (first, again) in first.iter().zip(&again) {
                match (first, again) {
                    (Fate::Made(a), Fate::There(b, differs)) => {
                        made += 1;
                        assert!(a == b && differs.is_empty(), "seed {seed}");
                    }
                    (Fate::There(a, _), Fate::There(b, _)) => {
                        there += 1;
                        assert_eq!(a, b);
                    }
                    (Fate::Refused(_), Fate::Refused(_) | Fate::There(..)) => refused += 1,
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            // Somebody is deleted: the address is free again, and the id is not.
            if dice.below(3) == 0
                && let Some(account) = kept.0.values_mut().next()
            {
                (account.email, account.status) = (None, Status::Deleted { at: NOW, rev: Rev(1) });
            }
        }
    }
    assert!(made > 5_000 && there > 5_000 && refused > 5_000, "{made} {there} {refused}");
}

#[test]
fn what_goes_out_comes_in_the_same() {
    let text = "{\"id\":\"acc_00000000000000000000000777\",\"email\":\"Ada@example.org\",\"name\":\"Ada\",\
        \"roles\":[\"b\",\"a\"],\"created_at\":\"2020-02-29T12:00:00.001Z\",\
        \"blocked\":{\"reason\":\"r\",\"until\":\"2999-01-01T00:00:00.000Z\"},\
        \"password_hash\":\"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\"}";
    let (mut kept, mut dice) = (Kept::default(), Seeded(1));
    kept.import(&[checked(text).unwrap()], &mut dice);
    let account = kept.0.values().next().unwrap().clone();
    let line = line_of(&account, true, NOW).unwrap().to_string();
    let mut other = Kept::default();
    other.import(&[checked(&line).unwrap()], &mut dice);
    assert_eq!(other.0.values().next(), Some(&account));
    assert!(line_of(&account, false, NOW).unwrap().get("password_hash").is_none());
    let gone = Account { status: Status::Deleted { at: NOW, rev: Rev(1) }, email: None, ..account };
    assert!(line_of(&gone, true, NOW).is_none());
}
