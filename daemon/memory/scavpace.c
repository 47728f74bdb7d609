/*
 * Scavpace: an account of work and sleep. Pure arithmetic; the clock is the caller's, so that tests have their own.
 *
 * Called by the scavenger. Go steers the ratio of work to sleep with a PI controller (scavengerState in
 * runtime/mgcscavenge.go). Here every nanosecond of work owes 99 of sleep, and every nanosecond that passes between two
 * pieces of work pays for one. The share is then 1% over any time that is long against one piece of work, however
 * inexact the sleeps are. Sleep beyond what is owed counts for the next work, but only up to 10 ms, so that a long
 * pause does not buy a burst.
 */
#include "daemon/memory/scavpace.h"

#define QUANTUM_PAGES  8u /* 64 KiB */
#define WORK_NS        UINT64_C(1000000)
#define CREDIT_NS      INT64_C(10000000)
#define SLEEP_NS_MIN   INT64_C(1000000)
#define WORK_NS_MAX    UINT64_C(10000000000) /* what seems to have taken longer is a fault of the clock */
#define SLEEP_NS_MAX   INT64_C(1000000000000)

uint64_t scavpace_npages(const scavpace *pace, uint64_t npages)
{
    uint64_t most = pace->page_ns == 0 ? 0 : WORK_NS / pace->page_ns / QUANTUM_PAGES * QUANTUM_PAGES;

    if (most < QUANTUM_PAGES)
        most = QUANTUM_PAGES;
    return npages < most ? npages : most;
}

uint64_t scavpace_worked(scavpace *pace, uint64_t npages, uint64_t work_ns, uint64_t slept_ns)
{
    if (npages > 0) {
        uint64_t page_ns = work_ns / npages + 1;

        pace->page_ns = pace->page_ns == 0 ? page_ns : (3 * pace->page_ns + page_ns) / 4;
    }
    if (slept_ns > (uint64_t)SLEEP_NS_MAX * 2)
        slept_ns = (uint64_t)SLEEP_NS_MAX * 2;
    if (work_ns > WORK_NS_MAX)
        work_ns = WORK_NS_MAX;
    pace->owed_ns -= (int64_t)slept_ns;
    if (pace->owed_ns < -CREDIT_NS)
        pace->owed_ns = -CREDIT_NS;
    pace->owed_ns += (int64_t)(work_ns * (100 - SCAVPACE_CPU_PERCENT) / SCAVPACE_CPU_PERCENT);
    if (pace->owed_ns < SLEEP_NS_MIN)
        return SLEEP_NS_MIN;
    return (uint64_t)(pace->owed_ns < SLEEP_NS_MAX ? pace->owed_ns : SLEEP_NS_MAX);
}
