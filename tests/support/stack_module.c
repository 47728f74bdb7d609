/*
 * A module without frame pointers, for stacks that lead through it. Two of them that differ in VARIANT alone have the
 * same layout and another build id.
 */
int stack_module_call(int (*f)(void *), void *arg);
int stack_module_variant(void);

static int __attribute__((noinline)) call_deeper(int (*f)(void *), void *arg, int depth)
{
    int r = depth > 0 ? call_deeper(f, arg, depth - 1) : f(arg);

    __asm__ volatile("" : : : "memory"); /* no tail call */
    return r + VARIANT - VARIANT;
}

__attribute__((visibility("default"))) int stack_module_call(int (*f)(void *), void *arg)
{
    int r = call_deeper(f, arg, 2);

    __asm__ volatile("" : : : "memory");
    return r;
}

__attribute__((visibility("default"))) int stack_module_variant(void)
{
    return VARIANT;
}
