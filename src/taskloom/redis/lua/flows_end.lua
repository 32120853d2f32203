-- End an open flow early. Message: {id, how}. Returns 1 when it was open.
local id = message[1]
if redis.call('HGET', flow_key(id), 'state') ~= 'open' then
  return 0
end
finish(id, message[2])
return 1
