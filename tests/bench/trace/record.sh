#!/bin/bash
# Record traces of real programs: see usage below, and README.md for the format.
set -u -o pipefail

usage() {
    cat <<'END'
Usage: tests/bench/trace/record.sh OUTPUT_DIR [--quick]

Records what these programs allocate and free, for goalloc-replay, and writes OUTPUT_DIR/NAME.trace, and to
OUTPUT_DIR/NAME.seconds what the program takes by itself, user and system time:
    gcc      the compiler proper (cc1 -O2) with a generated C file
    sqlite3  an SQL script on a database in memory: inserts, indexes, joins, updates
    perl     hashes, strings, arrays, sorting

Each has some millions of operations; with --quick a tenth of them. Needs gcc, sqlite3 and perl (Debian's packages of
these names; perl-base is enough). The recorder is compiled first.
END
}

output=
quick=0
for argument; do
    case $argument in
        --quick) quick=1 ;;
        --help | -h) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *)
            [[ -z $output ]] || { usage >&2; exit 2; }
            output=$argument
            ;;
    esac
done
[[ -n $output ]] || { usage >&2; exit 2; }

for program in gcc sqlite3 perl; do
    if ! command -v "$program" >/dev/null; then
        echo "record.sh: $program is missing: apt-get install gcc libc6-dev sqlite3 perl" >&2
        exit 1
    fi
done
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
mkdir -p "$output" && output=$(cd "$output" && pwd) || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
gcc -std=gnu11 -O2 -D_GNU_SOURCE -fPIC -shared -pthread -o "$tmp/record.so" "$here/record.c" || exit 1

TIMEFORMAT="%U %S"

# NAME PROGRAM COMMAND...: run the command and take the trace of the one process in it whose executable has that name.
record() {
    local name=$1 program=$2 found
    shift 2
    mkdir "$tmp/$name" || exit 1
    if ! GOALLOC_TRACE=$tmp/$name/%e.%p LD_PRELOAD=$tmp/record.so "$@" >"$tmp/$name/output" 2>&1; then
        echo "record.sh: $name failed:" >&2
        head -n 20 "$tmp/$name/output" >&2
        exit 1
    fi
    found=("$tmp/$name/$program".*)
    if ((${#found[@]} != 1)) || [[ ! -s ${found[0]} ]]; then
        echo "record.sh: $name: expected one trace of $program, found: ${found[*]}" >&2
        exit 1
    fi
    # The process has ended cleanly, so there are no zero bytes at the end.
    mv "${found[0]}" "$output/$name.trace" || exit 1
    { time "$@" >"$tmp/$name/output" 2>&1; } 2>"$output/$name.seconds" # what the program takes by itself
    echo "$output/$name.trace: $(grep -c '^[0-9]' "$output/$name.trace") operations"
}

# NAME: a number for it that is a tenth with --quick.
scale() {
    echo $((quick ? ($1 + 9) / 10 : $1))
}

# A C file with N modules, each with types, tables, functions with loops and switches, and calls between them.
make_c() {
    local i headers=(stdio stdlib string math stdint errno unistd pthread sys/types sys/socket sys/stat netdb)

    printf '#include <%s.h>\n' "${headers[@]}"
    for ((i = 0; i < $1; i++)); do
        sed "s/@/$i/g; s/%%/$((i > 0 ? i - 1 : 0))/g" <<'END'
struct node@ { struct node@ *left, *right; const char *name; long key; double weight[4]; };
static const char *const names@[] = { "alpha@", "beta@", "gamma@", "delta@", "epsilon@", "zeta@" };
static long work%%_sum(const struct node%% *n, int depth);
static struct node@ *insert@(struct node@ *n, long key, const char *name)
{
    if (n == NULL) {
        n = calloc(1, sizeof(*n));
        if (n == NULL)
            return NULL;
        n->key = key;
        n->name = name;
        for (int i = 0; i < 4; i++)
            n->weight[i] = sqrt((double)key * (i + 1)) + @;
        return n;
    }
    if (key < n->key)
        n->left = insert@(n->left, key, name);
    else if (key > n->key)
        n->right = insert@(n->right, key, name);
    return n;
}
static long work@_sum(const struct node@ *n, int depth)
{
    long sum = 0;

    for (; n != NULL; n = n->right) {
        switch ((n->key + depth) % 9) {
        case 0: sum += n->key; break;
        case 1: sum -= (long)n->weight[depth & 3]; break;
        case 2: sum ^= (long)strlen(n->name); break;
        case 3: sum += sum << 3; break;
        case 4: for (int i = 0; i < depth; i++) sum += i * n->key; break;
        case 5: sum = labs(sum) % (@ + 17); break;
        case 6: if (depth > 3) return sum + work@_sum(n->left, depth - 1); break;
        default: sum++;
        }
        sum += work@_sum(n->left, depth + 1);
    }
    return sum;
}
long work@(const long *keys, size_t n, char *out, size_t size)
{
    struct node@ *root = NULL;
    long histogram[64] = { 0 };

    for (size_t i = 0; i < n; i++) {
        root = insert@(root, keys[i] * @ + 1, names@[i % 6]);
        histogram[(size_t)keys[i] % 64]++;
    }
    for (size_t i = 1; i < 64; i++)
        for (size_t j = i; j > 0 && histogram[j - 1] > histogram[j]; j--) {
            long t = histogram[j];
            histogram[j] = histogram[j - 1];
            histogram[j - 1] = t;
        }
    snprintf(out, size, "%s %ld %f", names@[n % 6], histogram[63], root != NULL ? root->weight[1] : 0.0);
    return work@_sum(root, 0);
}
END
    done
}

make_sql() {
    cat <<END
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, city TEXT, credit REAL);
CREATE TABLE item (id INTEGER PRIMARY KEY, customer INTEGER, title TEXT, price REAL, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
    INSERT INTO customer SELECT i, printf('name %d of many', i * 7919 % 104729), 'city ' || i % 97, i * 1.5 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1 * 4)
    INSERT INTO item SELECT i, i * 31 % $1 + 1, printf('title %x', i * 2654435761 % 1000003), i % 1000 / 10.0,
        substr('a note that is of another length each time, up to some hundred characters', 1, i % 70) FROM n;
CREATE INDEX item_customer ON item (customer);
CREATE INDEX item_title ON item (title);
CREATE INDEX customer_city ON customer (city, name);
SELECT city, count(*), sum(price) FROM customer JOIN item ON item.customer = customer.id GROUP BY city ORDER BY 3;
SELECT count(DISTINCT title), group_concat(DISTINCT substr(title, 1, 8)) FROM item WHERE price > 50;
UPDATE item SET note = note || ' and more', price = price * 1.1 WHERE customer % 3 = 0;
DELETE FROM item WHERE id % 5 = 0;
CREATE TABLE summary AS SELECT customer, group_concat(title) AS titles, avg(price) AS mean FROM item GROUP BY customer;
SELECT upper(name), length(titles) FROM customer JOIN summary ON summary.customer = customer.id
    WHERE name LIKE '%7%' ORDER BY name LIMIT 1000;
END
    # Many small statements: each is parsed, planned and thrown away.
    for ((i = 0; i < $1 / 4; i++)); do
        echo "SELECT c.name, i.title, s.mean FROM customer c JOIN item i ON i.customer = c.id" \
            "LEFT JOIN summary s ON s.customer = c.id WHERE c.id = $((i * 37 % $1 + 1)) ORDER BY i.price DESC;"
        echo "INSERT INTO customer (name, city) VALUES ('new $i', 'city $((i % 50))');"
    done
    echo "DROP TABLE item; VACUUM; SELECT count(*) FROM customer;"
}

make_perl() {
    cat <<'END'
my ($n) = @ARGV;
my (%count, %words, @lines, $seed);
$seed = 12345;
sub random { $seed = ($seed * 1103515245 + 12345) % 2147483648; return int($seed / 65536) % $_[0]; }
my @syllables = qw(ka to mi ra ne su lo pe da vi gor mal tin zu bex);
for my $i (1 .. $n) {
    my $line = join ' ', map { join '', map { $syllables[random(15)] } 0 .. random(4) } 0 .. 3 + random(8);
    push @lines, $line;
    for my $word (split / /, $line) {
        $count{$word}++;
        push @{ $words{$word} }, $i if random(4) == 0;
    }
    if (@lines > $n / 4) {
        my @old = splice @lines, 0, @lines / 2;
        my %by_length;
        push @{ $by_length{length $_} }, uc $_ for @old;
        $count{"length $_"} += @{ $by_length{$_} } for keys %by_length;
    }
}
my $text = '';
$text .= sprintf "%s=%d;", $_, $count{$_} for sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
delete @words{ grep { random(2) } keys %words };
my %tree;
for my $word (keys %count) {
    my $at = \%tree;
    $at = $at->{$_} //= {} for split //, substr $word, 0, 6;
}
$text =~ s/(\w+)=(\d+);/<$1 $2>/g;
print length $text, ' ', scalar(keys %words), ' ', scalar(keys %tree), "\n";
END
}

make_c "$(scale 80)" >"$tmp/input.c"
make_sql "$(scale 20000)" >"$tmp/input.sql"
make_perl >"$tmp/input.pl"
record gcc cc1 gcc -O2 -S -o /dev/null "$tmp/input.c"
record sqlite3 sqlite3 sqlite3 -init "$tmp/input.sql" :memory: .quit
record perl perl env PERL_HASH_SEED=1 perl "$tmp/input.pl" "$(scale 90000)"
