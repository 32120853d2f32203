-- What a cleanup could delete now. Message: nothing. Returns {orphaned, expired}.
local before = '(' .. string.format('%.0f', now)
return {
  redis.call('ZCOUNT', base .. 'moment:processing', '-inf', before),
  redis.call('ZCOUNT', base .. 'expires', '-inf', before)
}
