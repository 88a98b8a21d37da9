//! Operations on a real store, without HTTP: every door against every credential, faults at every operation, races.
mod doors;
mod faults;
mod races;
mod world;
