/* The claim: how an attempt is started at most once, and never forgotten, whoever dies.
 *
 * One job, with all that may happen to it: the daemon is killed at any step (CRASHES times), shims are (KILLS times), the
 * host loses power (REBOOTS times); the job ends well, badly, or only when it is told to; it is cancelled or not. Each step
 * below is one act that the others can see, and names the function it stands for. Folders of attempts have nothing in
 * common, so one job is as good as many.
 *
 * What is checked, as assertions and as the absence of invalid end states:
 *
 *   twice       no attempt executes twice; a job whose attempt executed runs again only if that attempt's failure is known
 *               from its record, or the job is idempotent
 *   known       whatever of a job is alive belongs to the open attempt of an active job: nothing runs unknown to the
 *               database, and nothing is left when its cards are given to others
 *   told        lost: only if a shim was killed or the host died. Taken back, or not started: only if it never ran
 *   forgotten   what was acknowledged reaches a final state. Every wait below is a guard and nothing loops for ever (that
 *               is proven too, as the absence of any cycle: pan -l), so every run comes to an end; and the daemon's only
 *               valid end is after a final state. So there is no need for fairness.
 *
 * Taken as given: a commit is atomic and durable (SQLite, FULL); a dying process has left its locks and children behind
 * within two seconds (Supervisor.on_gone waits so long); a file that was synced survives, one that was not may or may not.
 *
 * Mutants, each a -D, each of which must be found: see test_model.py.
 */

#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef REBOOTS
#define REBOOTS 1
#endif
#ifndef RETRIES
#define RETRIES 0
#endif
/* Attempts are numbered from 1; each needs a reason from this list. */
#define MOST (2 + CRASHES + KILLS + REBOOTS + RETRIES)

mtype = { ABSENT, QUEUED, STARTING, RUNNING, STOPPING, SUCCEEDED, FAILED, CANCELLED, LOST };
mtype = { NONE, OWNED, REVOKED };                              /* the name `claim`: a link to `exit`, or a symlink */
mtype = { UNCLAIMED, TAKEN_BACK, ALIVE, ENDED, DEAD, UNSTARTED };    /* what a look at a folder says (LookKind) */
mtype = { NOTHING, GOOD, BAD, STOPPED };                             /* the exit record, and how a job ends */
mtype = { OPEN, YES, NO };                                          /* what the user says, and has said */

/* --- what the user wants ------------------------------------------------------------------------------------------- */
/* What nobody has asked for yet is left open until somebody does: runs that differ in it alone are searched once. */
bit cancels;
mtype idempotent = OPEN;
mtype nature = NOTHING;                   /* how the job ends by itself; STOPPED: never; NOTHING: open */
bit acknowledged;

/* --- queue.db: durable, written by the daemon alone ---------------------------------------------------------------- */
mtype state = ABSENT;
byte attempt, attempt_boot, failures;
bit stop;                                 /* attempts.stop_reason */

/* --- the attempts' folders: durable where it says so ---------------------------------------------------------------- */
mtype claim[MOST] = NONE;
mtype record[MOST] = NOTHING;
bit claim_synced[MOST], record_synced[MOST];

/* --- processes, gone with the host ---------------------------------------------------------------------------------- */
byte boot = 1;
bit lock[MOST], child_lock[MOST];         /* the flock on `exit`: the shim's own, and the copy its child has until exec */
bit tree[MOST];                           /* something of the job is alive */
mtype status[MOST] = NOTHING;             /* what the shim's waitpid says of the job's main process */
bit ordered[MOST];                        /* the shim was told to stop, by its line or by a signal */
bit terminated[MOST];                     /* its job got the SIGTERM */
bit told[MOST], gone[MOST];               /* the shim said "ended"; its process is no more */

/* --- the daemon's memory, gone with the daemon ---------------------------------------------------------------------- */
byte epoch;
byte watched, linked;                     /* Supervisor._watched; Watched.shim: a line to the shim */
bit known, armed;                         /* Watched.pidfd; Watched.timer: nobody has claimed yet */

/* --- what may go wrong, and what is counted to judge it -------------------------------------------------------------- */
byte crashes = CRASHES, kills = KILLS, reboots = REBOOTS;
byte ran[MOST];
bit killed[MOST];
byte living;                              /* shims and children: none is left when a host is up again */
byte unexplained;                         /* attempts that ran and whose end is not known */

#define ACTIVE (state == STARTING || state == RUNNING || state == STOPPING)
#define FINAL (state == SUCCEEDED || state == FAILED || state == CANCELLED || state == LOST)
#define LOCKED(n) (lock[n] || child_lock[n])

/* A step of the daemon begins so: it may have died before. */
#define UP if :: boot != my_boot -> goto down \
              :: boot == my_boot && crashes > 0 -> crashes--; goto down \
              :: boot == my_boot fi

/* SIGKILL to a shim: its locks are free at once, its child hears of it a moment later. */
#define STRUCK kills--; killed[n] = 1; lock[n] = 0; gone[n] = 1; goto vanished

/* A step of a shim begins so. */
#define LIVE if :: boot != my_boot -> goto vanished \
                :: boot == my_boot && kills > 0 -> STRUCK \
                :: boot == my_boot fi

/* attempt.look: the claim, then the lock, then the record: a shim that ends in between has written it by then. */
inline look(n) {
#ifdef RECORD_BEFORE_LOCK
	atomic { UP; seen_claim = claim[n]; seen_record = record[n] };
	atomic { UP; seen_lock = LOCKED(n) };
#else
	atomic { UP; seen_claim = claim[n] };
	atomic { UP; seen_lock = LOCKED(n) };
	atomic { UP; seen_record = record[n] };
#endif
	atomic {
		if
		:: seen_claim == NONE -> found = UNCLAIMED
		:: seen_claim == REVOKED -> found = TAKEN_BACK
		:: seen_claim == OWNED && seen_record != NOTHING -> found = ENDED
		:: seen_claim == OWNED && seen_record == NOTHING && seen_lock -> found = ALIVE
		:: else -> found = DEAD
		fi;
		seen_claim = NONE; seen_record = NOTHING; seen_lock = 0
	}
}

/* attempt.revoke: the symlink, made only where there is no claim, then the folder synced. */
inline revoke(n) {
	atomic { UP; if :: claim[n] == NONE -> claim[n] = REVOKED :: else fi; ours = (claim[n] == REVOKED) };
	if
	:: ours && reboots > 0 -> atomic { UP; claim_synced[n] = 1 }
	:: else
	fi
}

/* Supervisor.adopt: look, then a pidfd of the shim that the note names. */
inline adopt(n) {
	look(n);
	atomic { UP; ok = (found == ALIVE && !gone[n]);
		if :: ok -> watched = n; known = 1; armed = 0 :: else fi }
}

/* A lock that a dying shim's child still holds: Supervisor.on_gone asks again until it is free. */
inline settle(n) {
#ifdef NO_SETTLE
	skip
#else
	if
	:: found == ALIVE -> atomic { (boot != my_boot || !LOCKED(n)) -> UP }; look(n)
	:: else
	fi
#endif
}

/* Daemon._ended, Supervisor.sweep: what a dead shim left is ended before anything is written. */
inline sweep(n) {
#ifdef NO_SWEEP
	skip
#else
	if
	:: found == DEAD -> atomic { UP; tree[n] = 0 }
	:: else
	fi
#endif
}

/* endings.finish, with policy.retry.after_end: one transaction. */
inline finish(n) {
	atomic { UP;
		assert(!tree[n]);
		if
		:: found == ENDED && ran[n] -> unexplained--
		:: else
		fi;
		if
		:: found == TAKEN_BACK || found == UNSTARTED -> assert(!ran[n])
		:: else
		fi;
		if
		:: stop -> state = CANCELLED
		:: !stop && (found == TAKEN_BACK || found == UNCLAIMED) -> state = QUEUED
		:: !stop && found == ENDED && record[n] == GOOD -> state = SUCCEEDED
		:: !stop && ((found == ENDED && record[n] == BAD) || found == UNSTARTED) ->
			if
			:: failures < RETRIES -> failures++; state = QUEUED
			:: else -> state = FAILED
			fi
		:: else ->                                   /* How.SHIM_DIED, How.HOST_DIED */
			assert(killed[n] || attempt_boot != boot);
#ifdef NAIVE_REQUEUE
			state = QUEUED
#else
			if :: idempotent == OPEN -> idempotent = YES :: idempotent == OPEN -> idempotent = NO :: else fi;
			if :: idempotent == YES -> state = QUEUED :: else -> state = LOST fi
#endif
		fi;
		watched = 0; linked = 0; known = 0; armed = 0; stop = 0;
		/* nobody looks into this folder again, but for a late shim at its claim: fewer states to tell apart */
		record[n] = NOTHING; record_synced[n] = 0; claim_synced[n] = 0; status[n] = NOTHING;
		ordered[n] = 0; terminated[n] = 0; told[n] = 0;
		found = UNCLAIMED; ours = 0; ok = 0
	}
}

proctype Daemon() {
	byte my_boot = 1, n;
	mtype found = UNCLAIMED, seen_claim = NONE, seen_record = NOTHING;
	bit seen_lock, ours, ok;

down:	/* kill -9, power, or the first start; and up again */
	atomic {
		(boot == my_boot || living == 0);
		my_boot = boot; epoch++;
		watched = 0; linked = 0; known = 0; armed = 0; ours = 0; ok = 0; n = 0;
		found = UNCLAIMED; seen_claim = NONE; seen_record = NOTHING; seen_lock = 0
	};
	if
	:: !ACTIVE -> goto idle
	:: ACTIVE -> n = attempt
	fi;

	/* --- recover._recover_one ------------------------------------------------------------------------------------ */
	look(n);
	if
	:: found == UNCLAIMED && attempt_boot != boot ->
#ifdef REBOOT_REVOKES
		revoke(n); found = TAKEN_BACK;
#else
		found = DEAD;                                    /* whether it ran, nobody can know */
#endif
		goto over
	:: found == UNCLAIMED && attempt_boot == boot ->
#ifdef NO_FENCE
		found = TAKEN_BACK; goto over
#else
		revoke(n);
		if
		:: ours -> found = TAKEN_BACK; goto over
		:: else -> look(n)
		fi
#endif
	:: else
	fi;
	if
	:: found == ALIVE ->
		adopt(n);
		if
		:: ok ->
			if
			:: stop -> atomic { UP; ordered[n] = 1 }
			:: else
			fi;
			goto watch
		:: else -> look(n); settle(n)
		fi
	:: else
	fi;
	sweep(n);
	goto over;

	/* --- Loop.step: a request, or a placement -------------------------------------------------------------------- */
idle:
	if
	:: atomic { state == ABSENT && !acknowledged -> UP };
#ifdef ANSWER_FIRST
		atomic { UP; acknowledged = 1 };
		atomic { UP; state = QUEUED }
#else
		atomic { UP; state = QUEUED };
		atomic { UP; acknowledged = 1 }
#endif
		goto idle
	:: atomic { state == QUEUED && cancels -> UP; state = CANCELLED }; goto idle
	:: atomic { state == QUEUED -> UP };
		n = attempt + 1;
		assert(n < MOST);
#ifdef ACT_FIRST
		atomic { UP; watched = n; armed = 1; gone[n] = 0; living++; run Shim(n, epoch) };
		atomic { UP; attempt = n; attempt_boot = boot; state = STARTING };
#else
		atomic { UP; attempt = n; attempt_boot = boot; state = STARTING };      /* moves.place */
		atomic { UP; watched = n; armed = 1; gone[n] = 0; living++; run Shim(n, epoch) };              /* Supervisor.launch */
#endif
		goto watch
	:: atomic { (FINAL || (state == ABSENT && acknowledged)) -> UP }; goto done
	fi;

	/* --- an attempt under way ------------------------------------------------------------------------------------- */
watch:
	if
	:: atomic { boot != my_boot -> goto down }
	:: atomic { boot == my_boot && crashes > 0 -> crashes--; goto down }
	/* Running: moves.run, and no longer a claim to wait for */
	:: atomic { linked == n && ran[n] && armed -> UP; armed = 0;
		if :: state == STARTING -> state = RUNNING :: else fi }; goto watch
	/* a unit's shim tells by datagram, which may be lost: then the timer below, or its end, brings us there */
	:: atomic { linked != n && !known && ran[n] && armed -> UP }; adopt(n);
		if :: ok -> goto watch :: else -> goto on_gone fi
	/* Supervisor.on_message, or on_hint: "ended" */
	:: atomic { told[n] && (linked == n || known || armed) -> UP }; look(n);
		if
		:: found == ENDED || linked == n -> goto over
		:: else -> goto on_gone
		fi
	/* the line's end of file, or the pidfd's */
	:: atomic { gone[n] && (linked == n || known) -> UP; known = 0; armed = 0 }; goto on_gone
	/* Supervisor._too_slow; of a shim with a line it is an emergency alone, and no less possible */
	:: atomic { armed -> UP; armed = 0 }; goto unstarted
	/* Verbs._cancel: commit, then Actor.act */
	:: atomic { cancels && !stop -> UP; stop = 1; state = STOPPING };
		atomic { UP; if :: linked == n || known -> ordered[n] = 1; goto watch :: else fi };
		adopt(n);
		atomic { UP; if :: ok -> ordered[n] = 1; goto watch :: else fi };
#ifndef STOP_DROPPED
		revoke(n);                                       /* Actor._end */
		if
		:: ours -> found = TAKEN_BACK; goto over
		:: else -> adopt(n); atomic { UP; if :: ok -> ordered[n] = 1 :: else fi }
		fi;
#endif
		goto watch
	fi;

unstarted:	/* Supervisor.on_launch_failed */
	revoke(n);
	if
	:: ours -> found = UNSTARTED; goto over
	:: !ours && (linked == n || known) -> goto watch
	:: else -> goto on_gone
	fi;

on_gone:	/* Supervisor.on_gone */
	look(n);
	if
	:: found == UNCLAIMED -> goto unstarted
	:: found == ALIVE ->
		adopt(n);
		if
		:: ok ->
			if
			:: stop -> atomic { UP; ordered[n] = 1 }  /* asked for before there was anybody: Actor._end's second try */
			:: else
			fi;
			goto watch
		:: else -> look(n); settle(n)
		fi
	:: else
	fi;
	sweep(n);

over:
	finish(n);
	goto idle;

done:
	assert(FINAL);
	assert(unexplained == 0 || idempotent == YES || state == LOST || state == CANCELLED)
}

/* A shim: the attempt in its folder is all it knows. */
proctype Shim(byte n; byte asked_by) {
	byte my_boot = boot;
	atomic {
		if
		:: boot != my_boot -> goto vanished
		/* of the zygote's: it gets the attempt over its line, if the daemon lives until then */
		:: boot == my_boot && epoch == asked_by -> if :: watched == n -> linked = n :: else fi
		/* of a transient unit: PID 1 starts it, however late and whoever is alive then */
		:: boot == my_boot
		/* there is none: the daemon died before it could give the attempt to anybody */
		:: epoch != asked_by -> goto vanished
		fi
	};

	/* Holding._take; the child is forked by now, waits, and has nothing to do with the folder yet */
	atomic { LIVE; if :: lock[n] || claim[n] != NONE -> goto not_ours :: else -> lock[n] = 1 fi };
#ifdef RUN_FIRST
	atomic { LIVE; child_lock[n] = 1; living++; run Child(n) };
#endif
	atomic { LIVE;
#ifdef NO_EXCL
		claim[n] = OWNED
#else
		if :: claim[n] == NONE -> claim[n] = OWNED :: else -> lock[n] = 0; goto not_ours fi
#endif
	};
#ifndef RUN_FIRST
#ifdef CHILD_WITHOUT_LOCK
	atomic { LIVE; living++; run Child(n) };
#else
	atomic { LIVE; child_lock[n] = 1; living++; run Child(n) };                               /* Child.let_go */
#endif
#endif

watch:	/* Shim._watch */
	if
	:: atomic { boot != my_boot -> goto vanished }
	:: atomic { boot == my_boot && kills > 0 -> STRUCK }
	:: atomic { boot == my_boot && ran[n] && !claim_synced[n] && reboots > 0 -> claim_synced[n] = 1 }; goto watch
	:: atomic { boot == my_boot && ordered[n] && !terminated[n] && status[n] == NOTHING -> terminated[n] = 1 }; goto watch
	:: atomic { boot == my_boot && status[n] != NOTHING }
	fi;
#ifdef TOLD_FIRST
	atomic { LIVE; told[n] = 1 };
#endif
	atomic { LIVE; tree[n] = 0 };                                                   /* Tree.end */
	atomic { LIVE; record[n] = status[n] };                                         /* Holding.write_exit */
	if
	:: reboots > 0 -> atomic { LIVE; record_synced[n] = 1; claim_synced[n] = 1 }
	:: else                                 /* nobody could tell the difference */
	fi;
	atomic { LIVE; told[n] = 1 };                                                   /* Shim._tell */
	atomic { LIVE; lock[n] = 0; gone[n] = 1 };                                      /* Holding.close */
	goto vanished;

not_ours:	/* NotOursError: this process ends */
	atomic { if :: boot == my_boot && linked == n -> gone[n] = 1 :: else fi };

vanished:
#if REBOOTS > 0
	living--
#else
	skip                                    /* nobody waits for a host to be empty */
#endif
}

/* What becomes the job: it was forked ahead, has its orders, and now its attempt is claimed. */
proctype Child(byte n) {
	byte my_boot = boot;
	if
	:: atomic { boot != my_boot -> goto vanished }
	/* exec: whoever looks for its token finds it from here on. The instant between its parent's death and the signal
	   that this sends (PDEATHSIG) is enough for it. */
	:: atomic { boot == my_boot ->
		assert(ran[n] == 0);
		assert(unexplained == 0 || idempotent == YES);
		assert(ACTIVE && attempt == n);
		ran[n]++; unexplained++; tree[n] = 1; child_lock[n] = 0 }
	:: atomic { boot == my_boot && gone[n] -> child_lock[n] = 0; goto vanished }
	:: atomic { boot == my_boot && terminated[n] -> child_lock[n] = 0; status[n] = STOPPED; goto vanished }
	fi;
runs:
	if
	:: atomic { boot != my_boot }
	:: atomic { boot == my_boot && gone[n] }               /* what it started lives on until it is swept */
	:: atomic { boot == my_boot && nature != STOPPED ->
		if :: nature == NOTHING -> nature = GOOD :: nature == NOTHING -> nature = BAD :: else fi;
		status[n] = nature }
	/* without end: a stop that gets lost is seen as a run that is stuck */
	:: atomic { boot == my_boot && nature == NOTHING && cancels -> nature = STOPPED }; goto runs
	:: atomic { boot == my_boot && terminated[n] -> status[n] = STOPPED }
	fi;
vanished:
#if REBOOTS > 0
	living--
#else
	skip                                    /* nobody waits for a host to be empty */
#endif
}

/* The host loses power, or does not. */
proctype Power() {
	byte m;
	do
	:: atomic { reboots > 0 -> reboots--; boot++;
		for (m : 1 .. MOST - 1) {
			lock[m] = 0; child_lock[m] = 0; tree[m] = 0; gone[m] = (m <= attempt);
			ordered[m] = 0; terminated[m] = 0; told[m] = 0; status[m] = NOTHING;
			if
			:: record[m] != NOTHING && !record_synced[m] -> record[m] = NOTHING
			:: true
			fi;
			/* of a closed attempt it makes no difference: no shim is left to ask */
			if
			:: claim[m] != NONE && !claim_synced[m] && ACTIVE && m == attempt -> claim[m] = NONE
			:: true
			fi
		};
		m = 0 }
	:: break
	od
}

init {
	atomic {
		if :: cancels = 0 :: cancels = 1 fi;
		if :: reboots > 0 -> run Power() :: else fi;    /* else all that it could do is end, at any moment */
		run Daemon()
	}
}
