-- How many tasks are due and with nobody; those of lost leases included. Message: nothing.
part(10 * PIECE)
local pending = redis.pcall('XPENDING', stream, group)
local held = (pending.err and 0 or pending[1]) - redis.call('ZCOUNT', leases, '-inf', now)
return redis.call('XLEN', stream) - held + redis.call('ZCOUNT', delayed, '-inf', now)
