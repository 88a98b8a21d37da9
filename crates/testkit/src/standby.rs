//! What tests do with a primary and its standbys.
use crate::postgres::Cluster;

/// How often is asked until something is so: for half a minute and longer.
const TRIES: u32 = 2_000;

impl Cluster {
    /// From now on a commit is acknowledged when `standby` has it on disk, too. Blocks until that is so.
    ///
    /// # Panics
    /// When it takes too long, as every call here.
    pub fn must_reach(&self, standby: &Cluster) {
        assert!(standby.is_standby());
        self.psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.psql("postgres", "SELECT pg_reload_conf()");
        self.until("SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync')");
        self.until("SELECT current_setting('synchronous_standby_names') = '*'");
    }

    /// A standby gets nothing more from its primary, as when the way between them is cut.
    pub fn lose_touch(&self) {
        assert!(self.is_standby());
        self.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''");
        self.psql("postgres", "SELECT pg_reload_conf()");
        self.until("SELECT NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)");
    }

    /// A standby has all that its primary has written by now.
    pub fn catch_up(&self, primary: &Cluster) {
        let written = primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
        self.until(&format!(
            "SELECT pg_last_wal_receive_lsn() >= '{written}' AND pg_last_wal_replay_lsn() >= '{written}'"
        ));
    }

    /// A standby takes over. Its primary must have been ended before.
    pub fn promote(&self) {
        assert!(self.is_standby());
        self.psql("postgres", "SELECT pg_promote()");
        // What it inherited with its primary's settings: it has no standby of its own.
        self.psql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
        self.psql("postgres", "SELECT pg_reload_conf()");
        self.until("SELECT NOT pg_is_in_recovery() AND current_setting('synchronous_standby_names') = ''");
    }

    fn is_standby(&self) -> bool {
        self.psql("postgres", "SELECT pg_is_in_recovery()") == "t"
    }

    fn until(&self, sql: &str) {
        // Each try is a process of its own, which is pause enough.
        let came = (0..TRIES).any(|_| self.psql("postgres", sql) == "t");
        assert!(came, "it never came: {sql}");
    }
}
