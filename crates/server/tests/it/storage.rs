//! Trouble with the disk under real servers: full, read-only, failing syncs, damaged files, slow. What was answered as done is
//! done, nothing else is claimed, reads and verifiers go on, and it works again without a hand (I9; docs/storage.md).
mod acts;
mod damaged;
mod failing;
mod full;
mod place;
mod slow;
