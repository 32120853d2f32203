-- Note that an instance lives. KEYS[1]: a sorted set of instances by the end of their time.
-- ARGV[2], ARGV[3]: the instance, for how many microseconds.
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
