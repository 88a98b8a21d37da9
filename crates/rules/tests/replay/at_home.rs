//! Whether a token that comes days late comes from where its session was last (decision 0055).
use portcullis_domain::device;
use portcullis_domain::risk::{Act, Guesses, Made, Memory, Origin, Place, RefreshSeen, Seen, Spot, observe};
use portcullis_wire::{SessionId, Time};

const DAY: i64 = 86_400_000;
const NOTEBOOK: &str = "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0";

/// A network: its name, country, provider, and how many degrees east it is.
#[derive(Clone, Copy)]
struct Net(u8, &'static [u8; 2], u32, i32);

const HOME: Net = Net(1, b"FI", 100, 24);
/// The same line with another address.
const HOME_AGAIN: Net = Net(2, b"FI", 100, 24);
/// Another provider in the same town, and another town.
const OFFICE: Net = Net(3, b"FI", 200, 24);
const FAR_OFFICE: Net = Net(4, b"FI", 200, 27);
/// The same provider's in another country.
const ABROAD: Net = Net(5, b"SE", 100, 18);
const STRANGER: Net = Net(6, b"FI", 300, 27);

struct World {
    memory: Memory,
    at: Time,
    /// When the current token was made.
    made_at: Time,
    places: bool,
}

impl World {
    fn new(places: bool) -> Self {
        let at = Time(1_800_000_000_000);
        Self { memory: Memory::default(), at, made_at: at, places }
    }
    fn seen(&self, act: Act, net: Net, agent: &str) -> Seen {
        let Net(name, country, asn, lon) = net;
        let spot = Some(Spot { lat_udeg: 60_000_000, lon_udeg: lon * 1_000_000, radius_km: 20 });
        let place = Place { country: Some(*country), asn: Some(asn), spot };
        Seen {
            at: self.at,
            act,
            session: Some(SessionId::from_bits(7)),
            made: Some(Made { at: self.at, agent: device::family(Some(NOTEBOOK)), token_at: Some(self.made_at) }),
            from: Some(Origin { network: [name; 8], place: if self.places { place } else { Place::default() } }),
            agent: device::family(Some(agent)),
            build: device::build(Some(agent)),
            guesses: Guesses::default(),
        }
    }
    fn does(mut self, after: i64, act: Act, net: Net) -> Self {
        self.at = self.at.plus(after);
        self.made_at = self.at;
        self.memory = observe(&self.memory, &self.seen(act, net, NOTEBOOK)).1;
        self
    }
    fn signs_in(self, net: Net) -> Self {
        self.does(0, Act::SignIn { known_device: true, breached: false }, net)
    }
    fn goes_to(self, after: i64, net: Net) -> Self {
        self.does(after, Act::Refresh(RefreshSeen::Rotated), net)
    }
    /// Three days after the session was last in `last`.
    fn is_at_home(&self, last: Net, here: Net, agent: &str) -> bool {
        let late = Self { at: self.at.plus(3 * DAY), made_at: self.made_at, ..Self::new(self.places) };
        self.memory.is_at_home([last.0; 8], &late.seen(Act::Refresh(RefreshSeen::Theft), here, agent))
    }
}

#[test]
fn home_is_where_the_session_was_and_what_is_like_it() {
    for (here, with_places, without) in [
        (HOME, true, true),
        (HOME_AGAIN, true, false),
        (OFFICE, true, false),
        (FAR_OFFICE, false, false),
        (ABROAD, false, false),
        (STRANGER, false, false),
    ] {
        for (places, expected) in [(true, with_places), (false, without)] {
            let world = World::new(places).signs_in(HOME);
            assert_eq!(world.is_at_home(HOME, here, NOTEBOOK), expected, "network {} {places}", here.0);
        }
    }
    // A network that the account knows is its own, wherever that is.
    let world = World::new(false).signs_in(HOME).goes_to(DAY, OFFICE).goes_to(DAY, HOME);
    assert!(world.is_at_home(HOME, OFFICE, NOTEBOOK));
}

#[test]
fn who_went_where_the_account_never_was_may_have_been_a_thief() {
    for places in [true, false] {
        // The owner's next one, at home, is the copy that tells.
        let world = World::new(places).signs_in(HOME).goes_to(DAY, STRANGER);
        assert!(!world.is_at_home(STRANGER, HOME, NOTEBOOK), "{places}");
        // Who repeats where that was is still the same.
        assert!(world.is_at_home(STRANGER, STRANGER, NOTEBOOK));
        // Who was given the token there was there: an afternoon in a train.
        let later = World { made_at: world.at.plus(300_000), ..world };
        assert!(later.is_at_home(STRANGER, HOME, NOTEBOOK), "{places}");
        // In another house of the account's own provider; but a phone is in another one of its carrier's all the time.
        let world = World::new(places).signs_in(HOME).goes_to(DAY, HOME_AGAIN);
        assert!(!world.is_at_home(HOME_AGAIN, HOME, NOTEBOOK));
        let phone = World::new(places).signs_in(HOME).goes_to(DAY, OFFICE).goes_to(900_000, FAR_OFFICE);
        assert_eq!(phone.is_at_home(FAR_OFFICE, HOME, NOTEBOOK), places);
    }
}

#[test]
fn what_speaks_against_it() {
    let world = World::new(true).signs_in(HOME);
    assert!(world.is_at_home(HOME, HOME, &NOTEBOOK.replace("144.0", "145.0")), "a browser is newer after a while");
    assert!(!world.is_at_home(HOME, HOME, &NOTEBOOK.replace("144.0", "143.0")), "and not older");
    assert!(!world.is_at_home(OFFICE, HOME_AGAIN, NOTEBOOK), "the session is not where the row says");
    // Nothing is remembered: the same network or none.
    let nothing = World::new(true);
    assert!(nothing.is_at_home(HOME, HOME, NOTEBOOK) && !nothing.is_at_home(HOME, HOME_AGAIN, NOTEBOOK));
    // Who hides where they are is nowhere at home.
    let nowhere = Net(0xff, b"FI", 100, 24);
    assert!(!world.is_at_home(nowhere, nowhere, NOTEBOOK));
    // A place that nobody knows well is no place.
    let coarse = |seen: &mut Seen| {
        if let Some(spot) = seen.from.as_mut().and_then(|from| from.place.spot.as_mut()) {
            spot.radius_km = 500;
        }
    };
    let mut late = World { at: world.at.plus(3 * DAY), ..World::new(true) }.seen(
        Act::Refresh(RefreshSeen::Theft),
        OFFICE,
        NOTEBOOK,
    );
    assert!(world.memory.is_at_home([HOME.0; 8], &late));
    coarse(&mut late);
    assert!(!world.memory.is_at_home([HOME.0; 8], &late));
}
