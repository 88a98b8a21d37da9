//! A log that is founded anew: its positions jump, its old entries go, and everything of the old epoch is void.
use super::{Backend, World, conflict, wait};
use portcullis_domain::changes::{Change, Changes, Conflict};
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::view::Dead;
use portcullis_domain::{Chance, Expect};
use portcullis_wire::{Epoch, Rev, Target};

struct Counting(u128);
impl Chance for Counting {
    fn bits(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

pub(super) fn a_new_epoch_voids_what_was_before(backend: &dyn Backend) {
    let (w, ada, ses, gra) = World::peopled(backend);
    w.end(Target::All);
    let (lives, _) = w.new_session(&ada);
    assert!(w.alive(lives.id));
    let before = wait(w.store.stamp()).unwrap();
    let anew = |epoch: u32, base: u64| {
        let end = kernel::end(Door::Refound, Scope::All, None, &By::SYSTEM, &mut Counting(u128::from(base) << 8));
        let steps = [Change::Refound { epoch: Epoch(epoch), base: Rev(base) }].into_iter().chain(end.steps).collect();
        w.commit(Changes { steps, events: end.events, ..Changes::default() })
    };
    for (epoch, base) in [(1, 1 << 32), (0, 1 << 32), (2, 1), (2, 0)] {
        assert_eq!(conflict(anew(epoch, base)), Conflict::Moved, "{epoch} {base}");
    }
    assert_eq!(wait(w.store.stamp()).unwrap(), before);

    let done = anew(2, 1 << 32).unwrap();
    assert_eq!(done.rev, Some(Rev((1 << 32) + 1)));
    let stamp = wait(w.store.stamp()).unwrap();
    assert_eq!((stamp.log, stamp.epoch, stamp.head), (before.log, Epoch(2), Rev((1 << 32) + 1)));
    let (_, live) = wait(w.store.read_live()).unwrap();
    assert_eq!(live.len(), 1, "the old entries are gone");
    assert_eq!(stamp.chain, before.chain.after(&live[0]), "the chain goes on");
    assert!(!wait(w.store.read_log(before.head, 10)).unwrap().complete, "who was there needs a snapshot");
    assert!(wait(w.store.read_log(Rev(1 << 32), 10)).unwrap().complete);
    let view = wait(w.store.load_session(lives.id)).unwrap().unwrap();
    assert_eq!(view.dead(i64::MAX), Some(Dead::OldEpoch));
    assert_eq!(wait(w.store.load_refresh(gra.id)).unwrap().unwrap().session.id, ses.id, "rows stay");
    assert!(!w.alive(lives.id));
    // What was under way is born dead; what begins now lives.
    let unborn = |born| Expect::Unborn { account: ada.id, client: gra.client, born, under: None };
    assert_eq!(w.expects(unborn(before.head), None), Err(Conflict::BornDead));
    assert_eq!(w.expects(unborn(stamp.head), None), Ok(()));
    // Entries go on from there.
    assert_eq!(w.end(Target::All).rev, Some(Rev((1 << 32) + 2)));
    assert_eq!(anew(7, 9 << 32).unwrap().rev, Some(Rev((9 << 32) + 1)));
}
