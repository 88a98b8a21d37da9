# A throw-away PostgreSQL: made, started, and gone when standard input ends, which happens however the tests end.
# $1 directory of the programs, $2 directory of its own, $3 port; the rest: what runs a command as somebody other than root.
bin=$1 dir=$2 port=$3
shift 3
trap '' INT TERM HUP
if [ "$KIND" = Follower ]; then
    made() { "$@" "$bin/pg_basebackup" -D "$dir/data" -h 127.0.0.1 -p "$PRIMARY" -U operator -R -X stream -c fast --no-sync; }
else
    made() { "$@" "$bin/initdb" -D "$dir/data" -U operator -A trust --encoding UTF8 --locale C --no-sync; }
fi
made "$@" >"$dir/initdb.log" 2>&1 || {
    cat "$dir/initdb.log" >&2
    rm -rf "$dir"
    exit 1
}
fsync=off most=300
case $KIND in
Durable | Follower) fsync=on ;;
Small) fsync=on most=30 ;;
Standby) "$@" touch "$dir/data/standby.signal" ;;
esac
start() {
    "$@" env ${CLOCK:+"LD_PRELOAD=$CLOCK"} "$bin/postgres" -D "$dir/data" -c fsync=$fsync -c "listen_addresses=127.0.0.1" -c "port=$port" \
        -c "unix_socket_directories=$dir" -c "max_connections=$most" -c shared_buffers=64MB -c log_lock_waits=on \
        -c 'log_line_prefix=%m [%p] (%d) ' \
        >>"$dir/server.log" 2>&1 </dev/null &
    server=$!
    until "$bin/pg_isready" -q -h "$dir" -p "$port"; do
        kill -0 "$server" 2>/dev/null || {
            cat "$dir/server.log" >&2
            rm -rf "$dir"
            exit 1
        }
        sleep 0.05
    done
    echo "ready $server"
}
start "$@"
# Commands: die as in a crash, and come back (crash) or not (end).
while read -r word; do
    [ -n "$server" ] && kill -QUIT "$server" && wait "$server"
    server=
    case $word in
    crash) start "$@" ;;
    end) echo ended ;;
    esac
done
[ -n "$server" ] && kill -QUIT "$server" 2>/dev/null # a test may have ended it
wait
rm -rf "$dir"
