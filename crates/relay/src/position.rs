//! The `id` of events, as far as it can be read without the server's keys: `EPOCH.REV.` and 48 bytes, of which the first 32 are
//! the chain link there and the others the server's mark. A relay hands positions on as they came, and can tell whether one
//! fits the history that it knows; whether the server made it, only the server can tell.
use portcullis_feed::Publisher;
use portcullis_wire::{Chain, Epoch, Rev, b64};

/// A point of the log, as a verifier shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The generation.
    pub epoch: Epoch,
    /// The position.
    pub rev: Rev,
    /// The link there.
    pub link: Chain,
}

/// How a position stands to what the relay knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The log had this link there.
    Fits,
    /// Of an older epoch: void, and a snapshot follows.
    Older,
    /// Too long ago to be told.
    Unknown,
    /// Beyond what the relay knows: it lags, or the log was rolled back.
    Beyond,
    /// The log has another history there.
    Contradicts,
}

impl Position {
    /// Reads one; `None` when it has not the form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let epoch = Epoch(parts.next()?.parse().ok()?);
        let rev = Rev(parts.next()?.parse().ok()?);
        let signed: [u8; 48] = b64::decode_array(parts.next()?)?;
        Some(Self { epoch, rev, link: Chain(signed[..32].try_into().ok()?) })
    }

    /// How it stands to this log, when that takes no more than `max` entries to tell.
    pub fn standing(&self, log: &Publisher, max: usize) -> Standing {
        if (self.epoch, self.rev) > (log.epoch(), log.head()) {
            return Standing::Beyond;
        }
        if self.epoch < log.epoch() {
            return Standing::Older;
        }
        match log.agrees(self.rev, self.link, max) {
            Some(true) => Standing::Fits,
            Some(false) => Standing::Contradicts,
            None => Standing::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_feed::Mono;
    use portcullis_feed::publisher::Limits;
    use portcullis_wire::{Entry, LogId, Target, Time, Verb};

    fn text(epoch: u32, rev: u64, link: Chain) -> String {
        format!("{epoch}.{rev}.{}", b64::encode(&[&link.0[..], &[7; 16]].concat()))
    }

    #[test]
    fn what_can_be_told_without_keys() {
        let mut log = Publisher::empty(LogId::from_bits(1), Limits { recent: 2, set: 100 });
        let mut links = vec![log.chain()];
        for rev in 1..=4 {
            let (verb, target, until) = (Verb::End, Target::All, Time(9));
            let entry = Entry { rev: Rev(rev), verb, target, except: None, spread_ms: None, until };
            links.push(log.chain().after(&entry));
            log.append(&[entry], links[rev as usize], Mono(0)).unwrap();
        }
        let epoch = log.epoch().0;
        let standing = |text: &str| Position::parse(text).map(|at| at.standing(&log, 100));
        assert_eq!(standing(&text(epoch, 4, links[4])), Some(Standing::Fits));
        assert_eq!(standing(&text(epoch, 3, links[3])), Some(Standing::Fits));
        assert_eq!(standing(&text(epoch, 3, links[2])), Some(Standing::Contradicts));
        assert_eq!(standing(&text(epoch, 4, links[2])), Some(Standing::Contradicts));
        assert_eq!(standing(&text(epoch, 1, links[1])), Some(Standing::Unknown));
        assert_eq!(standing(&text(epoch, 5, links[4])), Some(Standing::Beyond));
        assert_eq!(standing(&text(epoch + 1, 1, links[4])), Some(Standing::Beyond));
        for wrong in ["", "1", "1.2", "1.2.x", "a.2.AAAA", &text(1, 1, links[1])[1..]] {
            assert_eq!(standing(wrong), None, "{wrong}");
        }
    }
}
