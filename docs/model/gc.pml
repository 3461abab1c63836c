/*
 * The protocol by which backups, prunes and restores share a repository without locks: leases, condemned lists, grace.
 * docs/format.md, "Garbage collection", describes it; repo/lease.go, session.go, adopt.go, merge.go, prune.go, sweep.go and
 * snapshots.go are it. README.md says what is checked within which bounds, and why that is enough.
 *
 * A snapshot needs the blob a. A pack holds a as it is, or as a delta on the blob b, or it holds b. A snapshot that is there
 * must find what it needs in packs that are stored and that some index segment lists. Each step is one operation on the
 * storage; any process may stop at any of them (CRASHES in all), and others take it for dead at any time after that; or its
 * machine sleeps (SLEEPS in all) for so long that others take it for dead, and goes on.
 *
 * Actors: WRITERS backups, PRUNES prunes, somebody who forgets, and with -DUNDELETE somebody who brings back, with -DREADER a
 * restore. With -DADOPT the repository is that of a first backup that was killed: a pack is there that no segment lists. With
 * -DMERGE writers merge the index after their manifest. With -DDELTA the first copy of a is a delta.
 *
 * Assumed: an operation has happened when it returns; a listing shows what was there when it began. The grace time protects
 * nothing but the restore: a prune may act on any list at once, as if clocks were wrong by more than it.
 */
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef PRUNES
#define PRUNES 2
#endif
#ifndef SLEEPS
#define SLEEPS 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifdef UNDELETE
#define RELIERS (WRITERS + 1) /* who has a writer's lease; the last of them is undelete */
#else
#define RELIERS WRITERS
#endif

#define NP 8 /* packs */
#define NL 3 /* condemned lists */
#define NG 8 /* index segments */
#define NPROC (RELIERS + PRUNES)
#define BIT(i) (1 << (i))
#define HAS(m, i) (((m) >> (i)) & 1)

byte stored = 1;     /* packs */
byte whole = 0;      /* packs that hold a as it is */
byte delta = 0;      /* packs that hold a as a delta on b */
byte base = 0;       /* packs that hold b */
byte seg[NG];        /* the packs that a segment lists; 0: it is not there */
byte segs = 1;       /* segments ever made */
byte packs = 1;      /* packs ever made */
byte list[NL];       /* the packs that a condemned list names */
byte lists = 0;      /* mask of those that are there */
byte made = 0;       /* lists ever made */
byte snaps = 1;      /* mask of manifests: 0 was there before, 1 + i is of writer i */
byte forgotten = 0;  /* manifest 0 lies under forgotten/ */
byte doubtful = 0;   /* mask of manifests whose maker is about to look whether it slept */

byte lease = 0;      /* mask of processes that have a lease */
byte dead = 0;       /* mask of those that others take for abandoned */
byte slept = 0;      /* mask of processes whose own check fails */
byte seen[NPROC];    /* mask of lists that a lease has seen */
byte crashes = CRASHES, sleeps = SLEEPS;
#ifdef READER
byte shield = NL;    /* lists from here on were made after the restore began */
#endif

#define ALLSEGS (seg[0] | seg[1] | seg[2] | seg[3] | seg[4] | seg[5] | seg[6] | seg[7])

/* What a set of packs is enough for. */
#define SUFFICES(m) (((m) & whole) != 0 || (((m) & delta) != 0 && ((m) & base) != 0))

/* A snapshot that is there can be restored. */
#define SAFE ((snaps & ~doubtful) == 0 || SUFFICES(stored & ALLSEGS))

/* The packs on some lists. */
#define ONLISTS(which) ((HAS(which, 0) -> list[0] : 0) | (HAS(which, 1) -> list[1] : 0) | (HAS(which, 2) -> list[2] : 0))

/* l becomes any bit of m, which is not 0. */
#define ANY(m, l) l = 0; do :: HAS(m, l) -> break :: ((m) >> ((l) + 1)) != 0 -> l++ od

/* out becomes packs of ok, which suffices: any whole copy, or any delta and any base. */
#define CHOOSE(ok, out) \
	if \
	:: ((ok) & whole) != 0 -> ANY((ok) & whole, l); out = BIT(l) \
	:: ((ok) & delta) != 0 && ((ok) & base) != 0 -> ANY((ok) & delta, l); out = BIT(l); ANY((ok) & base, l); out = out | BIT(l) \
	fi

#if CRASHES > 0
#define CRASH :: atomic { crashes > 0 -> crashes--; goto gone }
#else
#define CRASH
#endif
#if SLEEPS > 0 && !defined(NOAWAKE)
/* What must not be done by who slept is preceded by this. The sleep may come between it and the operation. */
#define AWAKE if :: HAS(slept, i) -> goto leave :: else fi;
#else
#define AWAKE
#endif

inline newPack(kind) { assert(packs < NP); mine = packs; packs++; stored = stored | BIT(mine); kind = kind | BIT(mine) }
inline newSegment(mask) { assert(segs < NG); seg[segs] = mask; segs++ }

/*
 * The writer's packs in mine go into a segment, which a writer that slept takes back if a prune has found them. In the mask
 * of a process that stores one pack at a time mine is a pack's number.
 */
inline listMine() {
	AWAKE
	if
	CRASH
	:: d_step { s = segs; newSegment(BIT(mine)) }
	fi
#if SLEEPS > 0
	;
	if
	:: d_step { HAS(slept, i) -> if :: !HAS(stored, mine) || HAS(ONLISTS(lists), mine) -> seg[s] = 0 :: else fi }; goto leave
	:: else
	fi
#endif
}

proctype Writer(byte i) {
	byte condemned, known, used, mine, news, l, s;
	bool again;

	/* newLease: the lists, then the lease that has seen them */
	news = lists;
#ifndef LATELEASE
	if
	CRASH
	:: d_step { lease = lease | BIT(i); seen[i] = news; news = 0 }
	fi;
#endif
	/* LoadIndex: the lists, then the segments */
	condemned = ONLISTS(lists);
	if
	CRASH
	:: d_step { known = ALLSEGS; known = known & ~condemned }
	fi;
#ifdef LATELEASE
	d_step { lease = lease | BIT(i); seen[i] = news; news = 0 }
#endif
#ifdef ADOPT
	/* adopt: the lists once more, then the packs that are there; those that nobody lists count as the writer's own */
	condemned = condemned | ONLISTS(lists);
	if
	CRASH
	:: atomic {
		if
		:: !SUFFICES(known) && (stored & ~ALLSEGS & ~condemned & whole) != 0 ->
			ANY(stored & ~ALLSEGS & ~condemned & whole, mine);
			used = BIT(mine)
		:: else
		fi
	   }
	fi;
	if
	:: used != 0 -> listMine(); goto rescue
	:: else
	fi;
#endif
	if
	:: atomic { SUFFICES(known) -> CHOOSE(known, used) }
	:: !SUFFICES(known) || base != 0 -> /* it changed, or there is none: a new pack, maybe a delta on a base that is there */
		if
		CRASH
		:: atomic {
			if
			:: d_step { newPack(whole) }; used = BIT(mine)
			:: (known & base) != 0 -> ANY(known & base, l); used = BIT(l); d_step { newPack(delta) }; used = used | BIT(mine)
			fi
		   }
		fi;
		listMine()
	fi;

	/* commit: rescue what was condemned meanwhile, until nothing is new */
rescue:
	atomic { news = lists; known = known | used; l = 0; s = 0; mine = 0 }
	if
	:: (news & ~seen[i]) != 0 ->
		d_step { condemned = condemned | ONLISTS(news & ~seen[i]); known = known & ~condemned }
#ifndef NORESCUE
		if
		:: (used & condemned) != 0 ->
			if
			:: atomic { SUFFICES(known) -> CHOOSE(known, used) }
			:: !SUFFICES(known) ->
				/* read from the old packs, which must be there, and put into a new one */
				if :: !SUFFICES(stored & used) -> goto leave :: else fi;
				if
				CRASH
				:: atomic {
					if
					:: (used & delta & ~condemned) != 0 -> d_step { newPack(base) }; used = (used & delta) | BIT(mine)
					:: else -> d_step { newPack(whole) }; used = BIT(mine)
					fi
				   }
				fi;
				listMine()
			fi
		:: else
		fi;
#endif
		/* renew: the lease has seen them */
		AWAKE
		if
		CRASH
		:: d_step { seen[i] = seen[i] | news }
		fi;
		goto rescue
	:: else
	fi;
#ifdef AFTERLOOK
	if :: again -> doubtful = doubtful & ~BIT(1 + i); goto merge :: else fi;
#else
	if :: again -> goto merge :: else fi; /* the look behind the manifest: nothing is new */
#endif
	AWAKE
#if SLEEPS > 0
	if
	CRASH
	:: d_step { snaps = snaps | BIT(1 + i); doubtful = doubtful | BIT(1 + i) }
	fi;
#ifdef CRASHDOUBT
	if CRASH :: true fi;
#endif
	if
#ifndef NOTAKEBACK
	:: d_step { HAS(slept, i) -> snaps = snaps & ~BIT(1 + i); doubtful = doubtful & ~BIT(1 + i) }; goto leave
#else
	:: d_step { HAS(slept, i) -> doubtful = doubtful & ~BIT(1 + i) }
#endif
#ifndef AFTERLOOK
	:: d_step { else -> doubtful = doubtful & ~BIT(1 + i) }
#else
	:: else
#endif
	fi;
#else
	if
	CRASH
	:: snaps = snaps | BIT(1 + i)
	fi;
#endif
	again = true;
	goto rescue;
merge:
#ifdef MERGE
	/* alone: a lease that has seen nothing, then the leases */
	atomic { used = 0; known = 0; condemned = 0; mine = 0; news = 0 }
	AWAKE
	seen[i] = 0;
	if :: ((lease & ~dead) >> RELIERS) != 0 -> goto leave :: else fi;
	/* the segments, then the packs: known becomes a mask of segments, all of whose packs are there */
	d_step { l = 0; do :: l < NG -> if :: seg[l] != 0 -> known = known | BIT(l); used = used | seg[l] :: else fi; l++ :: else -> break od; l = 0 }
	d_step {
		condemned = 0;
		do
		:: l < NG ->
			if
			:: HAS(known, l) && (seg[l] & ~stored) == 0 -> condemned = condemned | seg[l]
			:: HAS(known, l) && (seg[l] & ~stored) != 0 -> known = known & ~BIT(l)
			:: else
			fi;
			l++
		:: else -> break
		od;
		l = 0; used = 0
	}
	AWAKE
	if
	CRASH
	:: d_step { s = segs; newSegment(condemned) }
	fi;
#if SLEEPS > 0
	if :: d_step { HAS(slept, i) -> seg[s] = 0 }; goto leave :: else fi;
#endif
	do
	:: known != 0 ->
		if
		CRASH
		:: d_step { l = 0; do :: !HAS(known, l) -> l++ :: else -> break od; seg[l] = 0; known = known & ~BIT(l); l = 0 }
		fi
	:: else -> break
	od;
#endif
leave:
	lease = lease & ~BIT(i);
	goto end;
#if CRASHES > 0
gone:
	/* a manifest just stored is there to stay */
	atomic { doubtful = doubtful & ~BIT(1 + i); condemned = 0; known = 0; used = 0; mine = 0; news = 0; l = 0; s = 0; again = false }
	dead = dead | BIT(i)
#endif
end:
	atomic { condemned = 0; known = 0; used = 0; mine = 0; news = 0; l = 0; s = 0; again = false }
}

#ifdef UNDELETE
/* It brings manifest 0 back: its lease holds up every sweep that is planned while it is there. */
proctype Undelete(byte i) {
	lease = lease | BIT(i); /* it has seen nothing: what newLease stores first is more, and so are its steps fewer */
	if :: ((lease & ~dead) >> RELIERS) != 0 -> goto leave :: else fi;
	AWAKE
	if :: !forgotten -> goto leave :: else fi;
	if
	CRASH
	:: d_step { snaps = snaps | 1; doubtful = doubtful | 1 }
	fi;
#if SLEEPS > 0 && !defined(OLDUNDELETE)
	/* it slept before: the copy is taken back */
	if :: d_step { HAS(slept, i) -> snaps = snaps & ~1; doubtful = doubtful & ~1 }; goto leave :: d_step { else -> doubtful = doubtful & ~1 } fi;
#else
	doubtful = doubtful & ~1;
#endif
	if
	CRASH
	:: forgotten = 0
	fi;
leave:
	lease = lease & ~BIT(i);
	goto end;
#if CRASHES > 0
gone:
	doubtful = doubtful & ~1;
	dead = dead | BIT(i)
#endif
end:
	skip
}
#endif

#define READLEASES d_step { \
		live = lease & ~dead; \
		m = (1 << NL) - 1; \
		s = 0; \
		do :: s < RELIERS -> if :: HAS(live, s) -> m = m & seen[s] :: else fi; s++ :: else -> break od; \
		s = 0; \
		writing = (live & (BIT(RELIERS) - 1)) != 0; \
		live = (live >> RELIERS) & ~BIT(i - RELIERS) \
	}

proctype Prune(byte i) {
	byte condemned, known, there, sweep, acted, use, l, s, m, live, marked, mine, repack;
	bool writing;

	/* its lease; what it has seen holds up nothing */
	lease = lease | BIT(i);
	/* the lists first: who has stored a lease by the time when the leases are read knows, or will know, all of them */
#ifdef LEASESFIRST
	READLEASES;
#endif
	marked = lists;
#ifndef LEASESFIRST
	READLEASES;
#endif
#ifndef ACTALWAYS
	d_step { acted = marked & m; m = 0 }
#else
	d_step { acted = marked; m = 0 }
#endif
	if :: live != 0 -> goto leave :: else fi; /* another prune that lives ends this one */
	/* the snapshots, the packs, the index, then what the snapshots need */
	if
	CRASH
	:: mine = (snaps != 0)
	fi;
	there = stored;
	atomic { known = ALLSEGS; condemned = ONLISTS(marked) }
	atomic {
		if
		:: mine == 0 || snaps == 0 -> use = 0 /* none, or they were forgotten meanwhile */
		:: mine != 0 && snaps != 0 && SUFFICES(known & ~condemned) -> CHOOSE(known & ~condemned, use)
		:: mine != 0 && snaps != 0 && !SUFFICES(known & ~condemned) && SUFFICES(known) -> CHOOSE(known, use)
		:: mine != 0 && snaps != 0 && !SUFFICES(known) -> goto leave /* incomplete: nothing is removed */
		fi;
		mine = 0; l = 0
	}
	/* what lists that can be acted on name, but for what is needed again; the time of any of these lists may have come */
	atomic {
		condemned = condemned & ~use;
		do
		:: l < NL && HAS(acted, l) -> acted = acted & ~BIT(l); l++
		:: l < NL -> l++
		:: l == NL -> break
		od;
		l = 0;
		d_step {
#ifdef READER
			acted = acted & (BIT(shield) - 1);
#endif
			sweep = ONLISTS(acted) & ~use;
			/* what is to be condemned: what nothing needs, and what no segment lists */
#ifdef UNLISTED
			writing = false;
#endif
			there = (known & ~condemned & ~use) | (writing -> 0 : there & ~known & ~condemned);
			known = known & ~sweep;
			condemned = 0; marked = 0; writing = 0
		}
	}
	if
	:: use != 0 && made < NL -> /* a pack is wasteful: write what is used of it anew */
		atomic { ANY(use, l); repack = BIT(l); l = 0 }
		if :: (repack & stored) == 0 -> goto leave :: else fi;
		if
		CRASH
		:: d_step {
			if
			:: (repack & whole) != 0 -> newPack(whole)
			:: (repack & delta) != 0 -> newPack(delta)
			:: (repack & base) != 0 -> newPack(base)
			fi
		   }
		fi;
		listMine()
	:: true
	fi;
	AWAKE
	if
	CRASH
	:: d_step {
		if
		:: (there | repack) != 0 && made < NL -> list[made] = there | repack; lists = lists | BIT(made); made++
		:: else
		fi;
		there = 0; repack = 0; mine = 0; s = 0
	   }
	fi;
	/* sweep: first the forgotten that lose something, then the lines in the index, each segment anew before the old one goes;
	   then packs; then lists */
	if
	:: sweep != 0 ->
#ifdef UNDELETE
		if
		:: forgotten && !SUFFICES(known | use) ->
			AWAKE
			if CRASH :: forgotten = 0 fi
		:: else
		fi;
#endif
#ifdef LISTSFIRST
		lists = lists & ~acted;
#endif
#ifdef PACKSFIRST
		stored = stored & ~sweep;
#endif
		m = segs; /* segments as listed */
		do
		:: s < m ->
			if
			:: (seg[s] & sweep) != 0 ->
				if
				CRASH
				:: d_step { if :: (seg[s] & ~sweep) != 0 -> newSegment(seg[s] & ~sweep) :: else fi }
				fi;
				AWAKE
				if
				CRASH
				:: seg[s] = 0
				fi
			:: else
			fi;
			s++
		:: else -> break
		od;
		do
		:: sweep != 0 ->
			AWAKE
			if
			CRASH
			:: atomic { ANY(sweep, l); stored = stored & ~BIT(l); sweep = sweep & ~BIT(l); l = 0 }
			fi
		:: else -> break
		od
	:: else
	fi;
	if
	:: acted != 0 ->
		AWAKE
		if
		CRASH
		:: lists = lists & ~acted
		fi
	:: else
	fi;
leave:
	lease = lease & ~BIT(i);
	goto end;
#if CRASHES > 0
gone:
	atomic { condemned = 0; known = 0; there = 0; sweep = 0; acted = 0; use = 0; l = 0; s = 0; m = 0; live = 0; marked = 0; mine = 0; repack = 0; writing = 0 }
	dead = dead | BIT(i)
#endif
end:
	atomic { condemned = 0; known = 0; there = 0; sweep = 0; acted = 0; use = 0; l = 0; s = 0; m = 0; live = 0; marked = 0; mine = 0; repack = 0; writing = 0 }
}

/* Somebody forgets the first snapshot. */
proctype Forget() {
#ifdef UNDELETE
	if :: (snaps & 1) != 0 -> forgotten = 1; snaps = snaps & ~1 fi
#else
	snaps = snaps & ~1
#endif
}

/* A machine sleeps: its own clock tells it when it wakes, and others take it for dead. */
proctype Sleep() {
	byte i;
end:
	do
	:: atomic {
		sleeps > 0 && (lease & ~slept) != 0 ->
		ANY(lease & ~slept, i);
		sleeps--; slept = slept | BIT(i); dead = dead | BIT(i); i = 0
	   }
	od
}

#ifdef READER
/*
 * A restore: the index, then the packs, of which it tries every copy. It takes less than the grace time: no list that was
 * made after it began is acted on meanwhile. It misses nothing.
 */
proctype Reader() {
	byte known;
	if
	:: atomic { (snaps & ~doubtful) != 0 -> shield = made }
	:: snaps == 0 -> goto end
	fi;
	known = ALLSEGS;
	assert(SUFFICES(known & stored) || (snaps & ~doubtful) == 0);
end:
	atomic { shield = NL; known = 0 }
}
#endif

proctype Monitor() {
end:
	atomic { !SAFE -> assert(SAFE) }
}

init {
	atomic {
		byte i = 0;
#ifdef ADOPT
		snaps = 0; whole = 1; segs = 0; /* a first backup was killed after its pack */
#else
#ifdef DELTA
		delta = 1; base = 2; stored = 3; packs = 2; seg[0] = 3;
#else
		whole = 1; seg[0] = 1;
#endif
#endif
		do
		:: i < WRITERS -> run Writer(i); i++
		:: i >= RELIERS && i < NPROC -> run Prune(i); i++
		:: i >= WRITERS && i < RELIERS -> 
#ifdef UNDELETE
			run Undelete(i);
#endif
			i++
		:: i == NPROC -> break
		od;
		i = 0;
		run Forget(); run Monitor();
#ifdef READER
		run Reader();
#endif
#if SLEEPS > 0
		run Sleep()
#endif
	}
}
