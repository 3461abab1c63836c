/*
 * The protocol by which backups and prunes share a repository without locks: leases, condemned lists, grace.
 * docs/format.md, "Garbage collection", describes it; repo/lease.go, session.go, prune.go and sweep.go are it.
 *
 * One blob is enough: every pack holds it. A snapshot that is there must find it in some pack that is stored and listed by
 * some index segment. Each statement outside atomic is one operation on the storage; any process may stop at any of them
 * (crash), or sleep (SLEEPS times in all) for so long that others take its lease for abandoned.
 *
 * What is bounded: WRITERS backups and PRUNES prunes, each once; NP packs, NL lists, NG segments (asserted to suffice).
 *
 * What is assumed: a listing shows what was stored before it began (no lag); an operation has happened when it returns.
 * With -DSKEW the grace time protects nothing, as if clocks were wrong by more than it.
 */
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef PRUNES
#define PRUNES 2
#endif
#ifndef SLEEPS
#define SLEEPS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif

#define NP 7 /* packs */
#define NL 3 /* condemned lists */
#define NG 8 /* index segments */
#define NPROC (WRITERS + PRUNES)
#define BIT(i) (1 << (i))
#define HAS(m, i) (((m) >> (i)) & 1)

byte stored = 1;     /* packs */
byte seg[NG];        /* the packs that a segment lists; 0: it is not there */
byte segs = 1;       /* segments ever made */
byte packs = 1;      /* packs ever made */
byte list[NL];       /* the packs that a condemned list names */
byte lists = 0;      /* mask of those that are there */
byte made = 0;       /* lists ever made */
byte aged = 0;       /* mask of lists whose grace time is over */
byte snaps = 1;      /* mask of manifests: 0 was there before, 1 + i is of writer i */
byte doubtful = 0;   /* mask of manifests whose writer is about to look whether it slept */

byte lease = 0;      /* mask of processes that have a lease */
byte dead = 0;       /* mask of those that others take for abandoned */
byte slept = 0;      /* mask of processes whose own check fails */
byte seen[NPROC];    /* mask of lists that a lease has seen */
byte window = 0;     /* mask of processes between reading the lists and storing a lease */
byte before[NPROC];  /* the lists there were when the window began */
byte crashes = CRASHES, sleeps = SLEEPS;

inline indexed(m) { d_step { m = 0; m = seg[0] | seg[1] | seg[2] | seg[3] | seg[4] | seg[5] | seg[6] | seg[7] } }

#define CRASH(label) if :: true :: crashes > 0 -> crashes--; goto label fi

/* A list ages only when whoever read the lists before it was made has stored a lease, or given up. */
#ifdef SKEW
#define FAIR(l) true
#else
#define FAIR(l) (window == 0 || KNEW(l))
#endif
#define KNEW(l) ((!HAS(window, 0) || HAS(before[0], l)) && (!HAS(window, 1) || HAS(before[1], l)) && \
	(NPROC < 3 || !HAS(window, 2) || HAS(before[2 % NPROC], l)) && (NPROC < 4 || !HAS(window, 3) || HAS(before[3 % NPROC], l)))

/* A snapshot that is there can be restored. */
#define RESTORABLE ((stored & (seg[0] | seg[1] | seg[2] | seg[3] | seg[4] | seg[5] | seg[6] | seg[7])) != 0)
#define SAFE ((snaps & ~doubtful) == 0 || RESTORABLE)

inline putSegment(mask) {
	d_step { assert(segs < NG); seg[segs] = mask; segs++ }
}

/* A prune asks whether to go on with what it must not do when it slept. */
#define ALIVE(i) (!HAS(slept, i))

proctype Writer(byte i) {
	byte condemned, known, used, mine, news, l, s;
	byte base, own; /* segments: the first of its own, and merging */
	byte tries = 0;

	/* newLease: the lists, then the lease that has seen them */
	atomic { condemned = lists; window = window | BIT(i); before[i] = lists }
	CRASH(gone);
	atomic { lease = lease | BIT(i); seen[i] = condemned; window = window & ~BIT(i) }
	CRASH(gone);
	/* LoadIndex: the lists, then the segments */
	news = lists;
	d_step {
		l = 0; condemned = 0;
		do :: l < NL -> if :: HAS(news, l) -> condemned = condemned | list[l] :: else fi; l++ :: else -> break od;
	}
	indexed(known);
	used = known & ~condemned;
	mine = 0;
	if
	:: used != 0 -> /* the blob is there: one copy is relied upon */
		d_step { l = 0; do :: !HAS(used, l) -> l++ :: else -> break od; used = BIT(l) }
	:: used == 0 ->
		CRASH(gone);
		d_step { assert(packs < NP); mine = packs; packs++; stored = stored | BIT(mine) }
		used = BIT(mine);
		CRASH(gone);
		if :: !ALIVE(i) -> goto leave :: else fi;
		d_step { s = segs; own = 1; putSegment(BIT(mine)) }
		/* list: a writer that slept takes its segment back if a prune found the pack */
		if
		:: !ALIVE(i) ->
			d_step {
				l = 0; condemned = 0;
				do :: l < NL -> if :: HAS(lists, l) -> condemned = condemned | list[l] :: else fi; l++ :: else -> break od;
				if :: !HAS(stored, mine) || HAS(condemned, mine) -> seg[s] = 0 :: else fi
			}
			goto leave
		:: else
		fi
	fi;

	/* commit: rescue what was condemned meanwhile, until nothing is new */
rescue:
	CRASH(gone);
	atomic { news = lists & ~seen[i]; known = lists }
	if
	:: news != 0 ->
		d_step {
			l = 0; condemned = 0;
			do :: l < NL -> if :: HAS(news, l) -> condemned = condemned | list[l] :: else fi; l++ :: else -> break od;
		}
		if
		:: (used & condemned) != 0 ->
			/* read from the old pack, which must be there, and put into a new one */
			if :: (used & stored) == 0 -> goto leave :: else fi;
			CRASH(gone);
			d_step { assert(packs < NP); mine = packs; packs++; stored = stored | BIT(mine) }
			used = BIT(mine);
			CRASH(gone);
			if :: !ALIVE(i) -> goto leave :: else fi;
			d_step { s = segs; putSegment(BIT(mine)) }
			if
			:: !ALIVE(i) ->
				d_step {
					l = 0; condemned = 0;
					do :: l < NL -> if :: HAS(lists, l) -> condemned = condemned | list[l] :: else fi; l++ :: else -> break od;
					if :: !HAS(stored, mine) || HAS(condemned, mine) -> seg[s] = 0 :: else fi
				}
				goto leave
			:: else
			fi
		:: else
		fi;
		/* renew: the lease has seen them */
		if :: !ALIVE(i) -> goto leave :: else fi;
		seen[i] = seen[i] | known;
		goto rescue
	:: else
	fi;
	if :: tries == 1 -> goto leave :: else fi; /* the look behind the manifest: nothing is new */
	if :: !ALIVE(i) -> goto leave :: else fi;
	atomic { snaps = snaps | BIT(1 + i); doubtful = doubtful | BIT(1 + i) }
#ifdef CRASHDOUBT
	CRASH(gone);
#endif
	if
	:: atomic { !ALIVE(i) -> snaps = snaps & ~BIT(1 + i); doubtful = doubtful & ~BIT(1 + i) }; goto leave
	:: atomic { ALIVE(i) -> doubtful = doubtful & ~BIT(1 + i) }
	fi;
	tries = 1;
	goto rescue;
leave:
	lease = lease & ~BIT(i);
	goto end;
gone:
	/* a crash: what others may take for abandoned one day; a manifest just stored is there to stay */
	atomic { window = window & ~BIT(i); doubtful = doubtful & ~BIT(1 + i) }
end:
	skip
}

/* Another prune that lives ends this one. m are the lists that every living writer has seen. */
#define READLEASES d_step { \
		live = lease & ~dead; \
		alive = live & (BIT(WRITERS) - 1); \
		m = (1 << NL) - 1; \
		s = 0; \
		do :: s < WRITERS -> if :: HAS(alive, s) -> m = m & seen[s] :: else fi; s++ :: else -> break od; \
		live = (live >> WRITERS) & ~BIT(i - WRITERS) \
	}

proctype Prune(byte i) {
	byte condemned, known, there, sweep, acted, condemn, repack, need, use, l, s, m, alive, live, marked, mine, old;

	atomic { condemned = lists; window = window | BIT(i); before[i] = lists }
	atomic { lease = lease | BIT(i); seen[i] = condemned; window = window & ~BIT(i) }
	CRASH(gone);
	/* the lists first: who has stored a lease by the time when the leases are read knows, or will know, all of them */
#ifdef LEASESFIRST
	READLEASES;
#endif
	atomic { marked = lists; acted = lists & aged }
#ifndef LEASESFIRST
	READLEASES;
#endif
	acted = acted & m;
	if :: live != 0 -> goto leave :: else fi;
	/* the snapshots, then the index, then what the snapshots need */
	need = snaps;
	indexed(known);
	need = need & snaps; /* forgotten meanwhile */
	d_step {
		l = 0; condemned = 0;
		do :: l < NL -> if :: HAS(marked, l) -> condemned = condemned | list[l] :: else fi; l++ :: else -> break od;
		use = 0;
		if
		:: need != 0 && (known & ~condemned) != 0 -> s = 0; do :: !HAS(known & ~condemned, s) -> s++ :: else -> break od; use = BIT(s)
		:: need != 0 && (known & ~condemned) == 0 && known != 0 -> s = 0; do :: !HAS(known, s) -> s++ :: else -> break od; use = BIT(s)
		:: else
		fi
	}
	if :: need != 0 && use == 0 -> goto leave :: else fi; /* incomplete: nothing is removed */
	there = stored;
	d_step {
		condemned = condemned & ~use;
		/* what lists can be acted on name, but for what is needed again */
		l = 0; sweep = 0;
		do :: l < NL -> if :: HAS(acted, l) -> sweep = sweep | (list[l] & ~use) :: else fi; l++ :: else -> break od;
		condemn = known & ~condemned & ~use;
		if :: alive == 0 -> condemn = condemn | (there & ~known & ~condemned) :: else fi; /* orphans */
		repack = 0
	}
	if
	:: use != 0 && made < NL && packs < NP && segs < NG - 1 -> /* the pack is wasteful: write what is used of it anew */
		CRASH(gone);
		if :: (use & stored) == 0 -> goto leave :: else fi;
		d_step { assert(packs < NP); mine = packs; packs++; stored = stored | BIT(mine) }
		CRASH(gone);
		if :: !ALIVE(i) -> goto leave :: else fi;
		d_step { s = segs; putSegment(BIT(mine)) }
		if
		:: !ALIVE(i) ->
			d_step {
				l = 0; m = 0;
				do :: l < NL -> if :: HAS(lists, l) -> m = m | list[l] :: else fi; l++ :: else -> break od;
				if :: !HAS(stored, mine) || HAS(m, mine) -> seg[s] = 0 :: else fi
			}
			goto leave
		:: else
		fi;
		repack = use
	:: true
	fi;
	CRASH(gone);
	if :: !ALIVE(i) -> goto leave :: else fi;
	if
	:: (condemn | repack) != 0 && made < NL ->
		d_step { list[made] = condemn | repack; lists = lists | BIT(made); made++ }
	:: else
	fi;
	/* sweep: first the lines in the index, each segment anew before the old one goes; then packs; then lists */
	if
	:: acted != 0 ->
		old = segs; /* segments as listed */
		s = 0;
		do
		:: s < old ->
			if
			:: (seg[s] & sweep) != 0 && (segs < NG || (seg[s] & ~sweep) == 0) ->
				d_step { if :: (seg[s] & ~sweep) != 0 -> putSegment(seg[s] & ~sweep) :: else fi }
				CRASH(gone);
				if :: !ALIVE(i) -> goto leave :: else fi;
				seg[s] = 0
			:: (seg[s] & sweep) != 0 && segs >= NG && (seg[s] & ~sweep) != 0 -> goto leave
			:: else
			fi;
			s++
		:: else -> break
		od;
		s = 0;
		do
		:: s < NP && HAS(sweep, s) ->
			CRASH(gone);
			if :: !ALIVE(i) -> goto leave :: else fi;
			stored = stored & ~BIT(s);
			s++
		:: s < NP && !HAS(sweep, s) -> s++
		:: else -> break
		od;
		CRASH(gone);
		if :: !ALIVE(i) -> goto leave :: else fi;
		lists = lists & ~acted
	:: else
	fi;
leave:
	lease = lease & ~BIT(i);
	goto end;
gone:
	window = window & ~BIT(i);
end:
	skip
}

/* Somebody forgets the first snapshot; undelete is not part of this model. */
proctype Forget() { snaps = snaps & ~BIT(0) }

/* Time passes: a list's grace time is over. It is longer than twice the time that newLease allows itself. */
proctype Clock() {
	byte l;
end:
	do
	:: atomic { HAS(lists & ~aged, 0) && FAIR(0) -> aged = aged | BIT(0) }
	:: atomic { HAS(lists & ~aged, 1) && FAIR(1) -> aged = aged | BIT(1) }
	:: atomic { HAS(lists & ~aged, 2) && FAIR(2) -> aged = aged | BIT(2) }
	od
}

/* A machine sleeps: its own clock tells it when it wakes, and others take it for dead. */
proctype Sleep() {
	byte i;
end:
	do
	:: sleeps > 0 ->
		select(i : 0 .. NPROC - 1);
		atomic { sleeps--; slept = slept | BIT(i); dead = dead | BIT(i) }
	od
}

proctype Monitor() {
end:
	atomic { !SAFE -> assert(SAFE) }
}

init {
	atomic {
		seg[0] = 1;
		byte i = 0;
		do
		:: i < WRITERS -> run Writer(i); i++
		:: i >= WRITERS && i < NPROC -> run Prune(i); i++
		:: else -> break
		od;
		run Forget(); run Clock(); run Sleep(); run Monitor()
	}
}
