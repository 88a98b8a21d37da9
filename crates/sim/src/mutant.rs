//! Planted bugs: wrong steps that the simulator puts in place of right ones. The product has none of this code.

macro_rules! mutants {
    ($(#[$what:meta])* $kind:ident: $($(#[$doc:meta])* $name:ident = $text:literal breaks $breaks:literal;)*) => {
        $(#[$what])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind { $($(#[$doc])* $name,)* }
        impl $kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// Its name for `--mutant`.
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// The invariants of which at least one must catch it.
            pub const fn breaks(self) -> &'static str { match self { $(Self::$name => $breaks,)* } }
            /// From its name.
            pub fn parse(name: &str) -> Option<Self> { Self::ALL.iter().copied().find(|m| m.name() == name) }
        }
    };
}

mutants! {
    /// A planted bug in the world of one database.
    Mutant:
    /// The hub sends an entry when its commit is submitted.
    PublishBeforeCommit = "publish-before-commit" breaks "I4 I11";
    /// A verifier compares the entry's time with `iat`.
    IatInsteadOfRev = "iat-instead-of-rev" breaks "I1 I7 I11";
    /// A refresh reads the head after the facts.
    HeadAfterFacts = "head-after-facts" breaks "I3";
    /// "End all" and "end others" end the sessions that are listed, one commit each, and write no cut.
    RowByRowEnd = "row-by-row-end" breaks "I1 I7 I11 I13";
    /// The server drops entries from snapshots by their age.
    ForgetByTtl = "forget-by-ttl" breaks "I4 I16";
    /// A verifier forgets by its wall clock.
    VerifierForgetsByOwnClock = "verifier-forgets-by-own-clock" breaks "I16";
    /// A lease counts from when its answer arrived.
    LeaseFromArrival = "lease-from-arrival" breaks "I1 I2";
    /// A lease answer carries whatever head the hub has, as if it had been read just now.
    CachedHeadWithoutAge = "cached-head-without-age" breaks "I1 I2 I11";
    /// A lease counts for what is enforced once the log was read for it, and not since its question.
    LeaseCountedAfterRead = "lease-counted-after-read" breaks "I1";
    /// A repeated presentation makes another successor.
    TwoSuccessors = "two-successors" breaks "I5";
    /// A fault of the commit is answered as success.
    ErrorAsSuccess = "error-as-success" breaks "I9 I12";
    /// Success is answered when the commit has begun.
    AnswerBeforeDurable = "answer-before-durable" breaks "I9";
    /// A sign-in is born at its commit, and no cut above it is looked at.
    BornAtCommit = "born-at-commit" breaks "I1 I7";
    /// A verifier acknowledges before its threads see what it applied.
    AckBeforeApply = "ack-before-apply" breaks "I1";
    /// Any frame of the stream renews the lease.
    HeartbeatRenews = "heartbeat-renews" breaks "I1 I2";
    /// A verifier takes what comes after a gap as if there were none.
    SkipGap = "skip-gap" breaks "I4";
    /// Any old refresh token is taken for the predecessor.
    TheftIgnored = "theft-ignored" breaks "I5 I6";
    /// A predecessor that comes late is always theft.
    TheftEager = "theft-eager" breaks "I6";
    /// A predecessor that comes later than late may come from anywhere.
    LateFromAnywhere = "late-from-anywhere" breaks "I6";
    /// A new password by a link ends every session but the one that asked for it.
    ResetSparesASession = "reset-spares-a-session" breaks "I1 I7";
    /// The spared session is not looked at: a late "end others" revives it.
    SparedUnchecked = "spared-unchecked" breaks "I1 I7";
    /// Tokens are issued at the time of a clock that was set back, below F.
    IssueByClockAlone = "issue-by-clock-alone" breaks "I11";
    /// F is raised when the server starts, and never again.
    FloorStandsStill = "floor-stands-still" breaks "I16";
    /// F is watched for a round after each raise, so that it moves at half the pace.
    FloorEveryOtherRound = "floor-every-other-round" breaks "I16";
    /// Whether a guess may be looked at is seen before it is taken.
    LookBeforeTaking = "look-before-taking" breaks "I11 I12";
    /// Budgets for guesses live in the server's memory.
    BudgetsForgottenAtRestart = "budgets-forgotten-at-restart" breaks "I12";
    /// A known device is charged like a stranger.
    StrangersChargeTheDevice = "strangers-charge-the-device" breaks "I11";
    /// A key signs although verifiers may not have heard of it.
    KeyBeforePublished = "key-before-published" breaks "I11";
    /// A lease brings no keys: who hears of them by the stream only may be fresh without.
    LeaseWithoutKeys = "lease-without-keys" breaks "I11";
    /// A dead key is listed again once its entry is forgotten.
    DeadKeyListed = "dead-key-listed" breaks "I1";
    /// An old key is dropped while tokens that it signed live.
    KeyRetiredEarly = "key-retired-early" breaks "I11";
    /// An imported line gets an id by chance.
    ImportIdsByChance = "import-ids-by-chance" breaks "I9";
    /// A better hash is written whatever became of the account meanwhile.
    UpgradeUnchecked = "upgrade-unchecked" breaks "I10";
    /// How many sessions live is seen before the commit, and not counted in it.
    LimitUncounted = "limit-uncounted" breaks "I12";
    /// What applications hold counts as a sign-in, and ends to make room for one.
    LimitEndsApplications = "limit-ends-applications" breaks "I11";
    /// A browser's session does not idle while an application refreshes under it.
    ApplicationsKeepAwake = "applications-keep-awake" breaks "I12";
    /// What a cut killed is deleted at once: a sign-out repeated with the dead token finds nothing.
    PruneWhatIsCut = "prune-what-is-cut" breaks "I6 I9";
    /// A refresh does not look at the rules of revocations by filter.
    RuleUncheckedAtRefresh = "rule-unchecked-at-refresh" breaks "I1";
    /// A rule is taken away by its job's first step.
    RuleTakenAwayEarly = "rule-taken-away-early" breaks "I1 I7";
    /// Of a filter with two members one is forgotten.
    FilterLosesAMember = "filter-loses-a-member" breaks "I6 I11";
    /// A guard judges its connection when it is opened, and never again.
    GuardLooksOnce = "guard-looks-once" breaks "I14";
    /// Any good token renews a connection.
    RenewalByAnyone = "renewal-by-anyone" breaks "I14";
    /// Of the tokens shown a connection stands on the one that lasts longest.
    RenewalByLongest = "renewal-by-longest" breaks "I14";
    /// A code is not marked as used.
    CodeNotUsed = "code-not-used" breaks "I13";
    /// A redemption does not look at the ends since its code was made.
    RedeemedUnborn = "redeemed-unborn" breaks "I1 I7";
    /// A redemption does not look whether its consent was withdrawn meanwhile.
    RedeemedWithoutConsent = "redeemed-without-consent" breaks "I1 I7";
    /// A withdrawal ends the grants that it has seen.
    WithdrawalLooksOnce = "withdrawal-looks-once" breaks "I8";
    /// A refresh token is anybody's who shows it.
    RefreshByAnyClient = "refresh-by-any-client" breaks "I6";
    /// A refresh says what its session's user has proven last.
    PresentProofAtRefresh = "present-proof-at-refresh" breaks "I3";
    /// A redemption says what its session's user has proven last.
    PresentProofAtRedemption = "present-proof-at-redemption" breaks "I3";
    /// What comes of a code is born when it is redeemed.
    BornAtRedemption = "born-at-redemption" breaks "I1 I7";
    /// A device that somebody said yes to gets tokens, whatever has ended since.
    DeviceForgetsEnds = "device-forgets-ends" breaks "I1 I7";
    /// A device code is not marked as used.
    DeviceCodeTwice = "device-code-twice" breaks "I13";
    /// When a device asked is not written down.
    DevicePaceForgotten = "device-pace-forgotten" breaks "I12";
    /// A key gives tokens whatever became of its owner.
    KeySurvivesBlock = "key-survives-block" breaks "I1 I7";
    /// A token is exchanged whatever became of whom it is about.
    ExchangeOutlivesSubject = "exchange-outlives-subject" breaks "I1 I7";
    /// An exchanged token does not say which clients it came through.
    ExchangeWithoutVia = "exchange-without-via" breaks "I1";
    /// An exchanged token does not say who acts.
    ExchangeWithoutActor = "exchange-without-actor" breaks "I1 I7";
    /// Whoever a token came through is not looked at when it is exchanged again.
    ExchangeByAnyHands = "exchange-by-any-hands" breaks "I1 I7";
    /// A message is written down as sent before it is.
    SettledBeforeSent = "settled-before-sent" breaks "I9";
    /// A message is claimed at whatever version it has.
    ClaimedBlindly = "claimed-blindly" breaks "I13";
    /// Of a notice the first sessions are told of, and no more.
    NoticeFirstPage = "notice-first-page" breaks "I9";
    /// Sessions are deleted although it was not read yet who is told of their end.
    PruneBeforeTold = "prune-before-told" breaks "I9";
    /// Applications whose own sessions were allowed in one that ends are not told.
    AppsForgotten = "apps-forgotten" breaks "I9";
    /// Who is told is not asked of what has ended.
    ToldOfTheSpared = "told-of-the-spared" breaks "I11";
    /// Whether somebody has signed out at the provider is not looked at when they come back from there.
    UpstreamLateArrival = "upstream-late-arrival" breaks "I7";
    /// A provider's logout ends whoever has that name, at whichever provider.
    UpstreamByNameAlone = "upstream-by-name-alone" breaks "I11";
    /// A client's keys go on for as long as their address fails.
    KeptKeysForEver = "kept-keys-for-ever" breaks "I1";
    /// A fetch that fails forgets the keys that were there.
    FailureForgetsKeys = "failure-forgets-keys" breaks "I11";
    /// A client's keys count from when they came, and not from when they were asked for.
    KeysFromArrival = "keys-from-arrival" breaks "I1";
    /// While a client's keys are asked for, those of before go on, however old they are.
    RemovedKeysMeanwhile = "removed-keys-meanwhile" breaks "I1";
    /// Every assertion that no known key has signed asks the client's address.
    GarbageAsksAlways = "garbage-asks-always" breaks "I12";
    /// A client whose keys nobody could fetch is told that it is wrong.
    WrongWhenNobodyKnows = "wrong-when-nobody-knows" breaks "I11";
    /// What a rule ends is recorded, and not ended.
    RuleDropsItsEnd = "rule-drops-its-end" breaks "I1";
    /// A rule that ends a session ends its account's.
    RuleEndsTooMuch = "rule-ends-too-much" breaks "I11";
    /// A rule that blocks does not look how long somebody else has blocked for.
    RuleShortensBlock = "rule-shortens-block" breaks "I7";
    /// Rules block as many accounts as they like.
    CapForgotten = "cap-forgotten" breaks "I12";
    /// What a rule refuses is done.
    RefusedActIsDone = "refused-act-is-done" breaks "I1 I7 I11";
    /// Whoever must prove anew gets a token that says that they have.
    StepUpForgotten = "step-up-forgotten" breaks "I3";
    /// A link in an older mail works, whatever the password is now.
    LinkOfAnotherPassword = "link-of-another-password" breaks "I13";
    /// A link to a new password does not look at the ends since it was made.
    LinkOutlivesEnds = "link-outlives-ends" breaks "I13";
    /// A link to a new password is not used up.
    LinkWorksTwice = "link-works-twice" breaks "I13";
    /// "This was not me" leads to a new password, and ends nothing.
    NotMeEndsNothing = "not-me-ends-nothing" breaks "I1";
    /// Somebody new gets an account without having said that they want one.
    NewcomerUnasked = "newcomer-unasked" breaks "I11";
    /// Tokens may outlive the horizon of their snapshot.
    BeyondHorizon = "beyond-horizon" breaks "I16";
}

mutants! {
    /// A planted bug in the world of replaced databases.
    Lapse:
    /// A start looks at no mark.
    MarkIgnored = "mark-ignored" breaks "I10";
    /// A start compares positions, and not F.
    MarkWithoutFloor = "mark-without-floor" breaks "I10";
    /// A start compares numbers, and not what was written since.
    MarkWithoutChain = "mark-without-chain" breaks "I10";
    /// A start compares what was written, and not who wrote it.
    MarkWithoutRun = "mark-without-run" breaks "I10";
    /// A run is in the database before the mark names it.
    RunBeforeMark = "run-before-mark" breaks "I10";
    /// The mark is written for whatever database is found.
    MarkGoesBack = "mark-goes-back" breaks "I10";
    /// A start forgets that the database was proven to be old.
    ProofForgotten = "proof-forgotten" breaks "I10";
    /// A verifier's position beyond the head proves nothing.
    PositionIgnored = "position-ignored" breaks "I10";
    /// Another history at a verifier's position proves nothing.
    LinkIgnored = "link-ignored" breaks "I10";
    /// A refresh token ahead of its row proves nothing.
    AheadIgnored = "ahead-ignored" breaks "I10";
    /// A database that has what was lost stays shut.
    RightOneShut = "right-one-shut" breaks "I10";
    /// Founding anew keeps the epoch, and only ends everything.
    RefoundInTheSameEpoch = "refound-in-the-same-epoch" breaks "I10";
    /// A restored copy hears of no block that came after it.
    ReplayForgotten = "replay-forgotten" breaks "I10";
    /// Of an account's lines in the journal the first one counts.
    ReplayFirstLine = "replay-first-line" breaks "I10";
    /// Of an account's lines in the journal the last one counts alone, whatever it says nothing of.
    ReplayLastLineAlone = "replay-last-line-alone" breaks "I10";
    /// A restored copy is served as it is.
    RestoreAsItIs = "restore-as-it-is" breaks "I10";
    /// What was acknowledged is not counted: a standby without the newest refreshes is taken for whole.
    CommitsUncounted = "commits-uncounted" breaks "I10";
    /// Each server knows only what it was told itself: what was told to one that died with its primary is known to nobody.
    OthersForgotten = "others-forgotten" breaks "I10";
    /// What was seen of others counts at once, though a failover may rightly lose it.
    OthersUnconfirmed = "others-unconfirmed" breaks "I10";
    /// A commit of an unknown outcome counts as acknowledged.
    UnknownIsTold = "unknown-is-told" breaks "I10";
    /// Another timeline alone is taken for a loss.
    TimelineAlone = "timeline-alone" breaks "I10";
    /// Only a start looks whether something was lost.
    NeverLooked = "never-looked" breaks "I10";
    /// A verifier that meets another log, epoch or history begins anew with it.
    FollowAnything = "follow-anything" breaks "I10";
}

mutants! {
    /// A planted bug in the world of several nodes.
    Lag:
    /// A lease is given by what the node's reader knows, without a read.
    LeaseFromTail = "lease-from-tail" breaks "I1 I4 I11";
    /// Entries are numbered by a sequence, before they are committed.
    Sequence = "sequence" breaks "I1 I4 I11";
    /// A node that was stopped for long gives leases before it has shown that it lives.
    NoFence = "no-fence" breaks "I1";
    /// A node gives leases before it has a row.
    RowAfterLease = "row-after-lease" breaks "I1";
    /// The row of a node that is silent for a second is removed.
    GoneTooEarly = "gone-too-early" breaks "I1";
    /// The row of a node that was stopped in order is removed at once.
    LeftAtOnce = "left-at-once" breaks "I1";
    /// A node that has said nothing is taken to agree.
    SilenceIsConsent = "silence-is-consent" breaks "I1";
    /// Only the node that waits is asked.
    OneNodeAlone = "one-node-alone" breaks "I1";
    /// A node does not remember what was complete, and answers whoever asks without hearing the others.
    ForgetsComplete = "forgets-complete" breaks "§8";
    /// While the bound runs, the instances of a node that is silent are in no count.
    PendingForgetsTheSilent = "pending-forgets-the-silent" breaks "§8";
    /// Once the bound is over, the instances of a node that is silent are in no count.
    LapsedForgetsTheSilent = "lapsed-forgets-the-silent" breaks "§8";
    /// A relay gives leases as if it were fresh itself whenever it is asked.
    RelayRenews = "relay-renews-on-its-own" breaks "I1 I11";
    /// A relay acknowledges what it has applied itself, for all below it.
    RelaySpeaksForAll = "relay-acknowledges-for-its-verifiers" breaks "I1";
    /// A relay forgets who hangs up: their leases count no more.
    RelayForgets = "relay-forgets-who-hangs-up" breaks "I1";
    /// A relay tells the age of the answer that it got, and not the time since then.
    RelayAge = "relay-leaves-out-its-own-age" breaks "I1 I11";
}

mutants! {
    /// A planted bug in the world of the audit trail.
    Seam:
    /// The sealer goes by the order in which records were begun, and never comes back for one that came late.
    SealsBySequence = "seals-by-sequence" breaks "I9";
    /// A seal is written without looking whether the chain still ends where it was read.
    SealsBlindly = "seals-blindly" breaks "I9";
    /// The beginning is pruned, and nobody says so under the key.
    UnsignedStart = "unsigned-start" breaks "I9";
    /// An address is erased, and its salt is not.
    SaltStays = "salt-stays" breaks "I9";
    /// A follower's cursor moves, and what it passed is told afterwards.
    CursorFirst = "cursor-first" breaks "I9";
    /// A cursor moves from wherever it stands.
    CursorBlindly = "cursor-blindly" breaks "I9";
    /// A cursor moves to the end of the trail, whatever was read.
    CursorToTheEnd = "cursor-to-the-end" breaks "I9";
    /// When a chain is begun anew cursors are put to its beginning, and what the old one has left is never told.
    CursorToTheBeginning = "cursor-to-the-beginning" breaks "I9";
    /// What was seen of the chain is let go by words that nobody with the key has said, or has said long ago.
    LetsGoUnattested = "lets-go-unattested" breaks "I9";
    /// A chain that is begun anew takes whatever stands before it for what the old one has left.
    OldUpToTheBeginning = "old-up-to-the-beginning" breaks "I9";
}
